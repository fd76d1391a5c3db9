"""What a person is told of relevance that hardly depends on the class."""

from functools import cache

from salhub.errors import CardError
from salhub.results import read_results

_MEASURED = "salient-relevance-efficientnet-lite0"
# As alike as this, two maps are taken for one by whoever looks at them.
_ALIKE = 0.8


@cache
def class_notes() -> tuple[str, ...]:
    """Sentences for every answer, by what was measured of the shipped model.

    A second class would take a second pass as long as the first, so no answer is compared itself.
    """
    try:
        rho = read_results(_MEASURED).metric("class_similarity/rho/salient relevance").value
    except (CardError, KeyError):  # a copy without the measured numbers says nothing of them
        return ()
    if rho < _ALIKE:
        return ()
    return (
        "Maps of this method hardly depend on the class (rank correlation of two classes, "
        f"measured on EfficientNet-Lite0: {rho:.2f}). To see what speaks for one class, use "
        "contrast='others'.",
    )

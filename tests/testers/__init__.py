"""What every model of salhub must be able to do: the specification of a good citizen, in parts.

The tests of a method derive a class `Test...` from the parts that apply, say how a small model is
built and called, and inherit every test:

    class TestMyMethod(SavingTester, BatchTester, AttributionTester): ...
"""

from tests.testers.attribution import AttributionTester
from tests.testers.calling import BatchTester, CallingTester
from tests.testers.quantizer import QuantizerTester
from tests.testers.saving import SavingTester

__all__ = ["AttributionTester", "BatchTester", "CallingTester", "QuantizerTester", "SavingTester"]

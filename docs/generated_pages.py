"""Hook of mkdocs: the site also shows model cards and benchmark results, which lie beside docs."""

import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parent.parent
GENERATED = ("model_cards/*.md", "model_cards/*.png", "benchmarks/results/*")
_FRONT_MATTER = re.compile(r"\A---\n.*?\n---\n", re.DOTALL)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated pages under the paths that they have in the repository."""
    for pattern in GENERATED:
        for path in sorted(ROOT.glob(pattern)):
            name = path.relative_to(ROOT).as_posix()
            if path.suffix == ".md":
                # The Hub's own fields; some of them mean something else to mkdocs.
                content = _FRONT_MATTER.sub("", path.read_text(encoding="utf-8"))
                files.append(File.generated(config, name, content=content))
            else:
                files.append(File.generated(config, name, abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, **unused: object) -> str:
    """Links leave `docs` in the repository; in the site everything lies one folder higher."""
    return re.sub(r"\]\(\.\./((?:\.\./)*(?:model_cards|benchmarks)/)", r"](\1", markdown)

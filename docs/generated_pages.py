"""Hooks of mkdocs: every method is listed, and the site also shows what lies beside docs."""

import re
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files

ROOT = Path(__file__).parent.parent
GENERATED = ("model_cards/*.md", "model_cards/*.png", "benchmarks/results/*")
_FRONT_MATTER = re.compile(r"\A---\n.*?\n---\n", re.DOTALL)


def on_config(config: "MkDocsConfig") -> "MkDocsConfig":
    """List the pages of all methods, which are called by their headings."""
    [methods] = [section for section in config["nav"] if "Methods" in section]
    pages = sorted((ROOT / "docs" / "methods").glob("*.md"))
    methods["Methods"] = [f"methods/{page.name}" for page in pages]
    return config


def on_files(files: "Files", config: "MkDocsConfig") -> "Files":
    """Add the generated pages under the paths that they have in the repository."""
    from mkdocs.structure.files import File

    for pattern in GENERATED:
        for path in sorted(ROOT.glob(pattern)):
            name = path.relative_to(ROOT).as_posix()
            if path.suffix == ".md":
                # The Hub's own fields; some of them mean something else to mkdocs.
                content = _FRONT_MATTER.sub("", path.read_text(encoding="utf-8"))
                # What is folded on GitHub and the Hub is Markdown here only where it says so.
                content = content.replace("<details>", '<details markdown="1">')
                files.append(File.generated(config, name, content=content))
            else:
                files.append(File.generated(config, name, abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, **unused: object) -> str:
    """Links leave `docs` in the repository; in the site everything lies one folder higher."""
    return re.sub(r"\]\(\.\./((?:\.\./)*(?:model_cards|benchmarks)/)", r"](\1", markdown)

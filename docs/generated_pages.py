"""Hooks of mkdocs: every method is listed, and the site also shows what lies beside docs."""

import re
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files

ROOT = Path(__file__).parent.parent
GENERATED = ("model_cards/*.md", "model_cards/*.png", "benchmarks/results/*")
_PUBLIC = re.compile(r"^from (\S+) import (\w+) as \2$", re.MULTILINE)
_FRONT_MATTER = re.compile(r"\A---\n.*?\n---\n", re.DOTALL)


def on_config(config: "MkDocsConfig") -> "MkDocsConfig":
    """List the pages of all methods and the cards of all models, called by their headings."""
    for title, folder in (("Methods", ROOT / "docs" / "methods"), ("Models", ROOT / "model_cards")):
        [section] = [section for section in config["nav"] if title in section]
        section[title] = [f"{folder.name}/{page.name}" for page in sorted(folder.glob("*.md"))]
    return config


def on_files(files: "Files", config: "MkDocsConfig") -> "Files":
    """Add the generated pages under the paths that they have in the repository, and a reference."""
    from mkdocs.structure.files import File

    files.append(File.generated(config, "reference.md", content=reference()))

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


def reference() -> str:
    """A page with the docstring of every public name, which the stub lists with their modules."""
    stub = (ROOT / "salhub" / "__init__.pyi").read_text(encoding="utf-8")
    public = [("salhub.pipelines", "pipeline"), *_PUBLIC.findall(stub)]
    public.sort(key=lambda found: found[1].lower())
    sections = [f"## {name}\n\n::: {module}.{name}" for module, name in public]
    return "\n\n".join(["# Reference", "All that `import salhub` offers.", *sections]) + "\n"


def on_page_markdown(markdown: str, **unused: object) -> str:
    """Links leave `docs` in the repository; in the site everything lies one folder higher."""
    return re.sub(r"\]\(\.\./((?:\.\./)*(?:model_cards|benchmarks)/)", r"](\1", markdown)

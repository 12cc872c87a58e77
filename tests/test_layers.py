"""The floors of the house: imports only go down, methods and artifact do not know each other, nothing imports recipes."""

import ast
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "distill_hub"
FLOORS = [
    ["text"],
    ["kinds", "parsing", "ending", "starter", "teams", "feed"],
    ["config"],
    ["disk", "extensions"],
    ["hub", "running"],
    ["data"],
    ["networks"],
    ["augmentation", "fitting"],
    ["classifiers"],
    ["statistics"],
    ["generators"],
    ["generating"],
    ["conversion"],
    ["coresets"],
    ["options"],
    ["methods", "matching", "guidance", "artifact"],
    ["recovery", "views"],
    ["foreign", "publishing"],
    ["training", "comparing"],
    ["teachers", "dataset"],
    ["evaluation"],
    ["making"],
    ["launching"],
    ["commands"],
    ["cli"],
]
FLOOR = {name: height for height, names in enumerate(FLOORS) for name in names}


def imports(file: Path) -> set[str]:
    """Full names of all modules a file imports, inside functions, too."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"
            found.add(node.module)
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def test_imports_go_down():
    seen = 0
    for file in PACKAGE.rglob("*.py"):
        own = file.relative_to(PACKAGE).parts[0].removesuffix(".py")
        if own == "__init__":
            continue  # what a user imports; it is the roof
        for module in imports(file):
            root, _, rest = module.partition(".")
            if root != "distill_hub" or not rest:
                continue
            other = rest.split(".")[0]
            seen += 1
            allowed = own == other or FLOOR[other] < FLOOR[own]
            assert allowed, f"{file.relative_to(PACKAGE)} ({own}) imports {module} ({other})"
    assert seen > 50


def test_no_circles_inside_a_folder():
    graph = {}
    for file in PACKAGE.rglob("*.py"):
        name = "distill_hub." + ".".join(file.relative_to(PACKAGE).with_suffix("").parts)
        graph[name] = {module for module in imports(file) if module.startswith("distill_hub.")}

    def reaches(start: str, goal: str, visited: set[str]) -> bool:
        following = (graph.get(start, set()) & graph.keys()) - visited
        return goal in following or any(reaches(n, goal, visited | following) for n in following)

    assert not [name for name in graph if reaches(name, name, set())]


def test_nothing_imports_the_recipes():
    root = PACKAGE.parent
    files = [*PACKAGE.rglob("*.py"), *(root / "recipes").rglob("*.py"), *(root / "tests").rglob("*.py")]
    assert not [f for f in files if any(m.split(".")[0] == "recipes" for m in imports(f))]


def test_files_and_recipes_stay_short():
    lengths = {file: len(file.read_text().splitlines()) for file in PACKAGE.rglob("*.py")}
    assert not {file.name: n for file, n in lengths.items() if n > 400}
    rooms: dict[str, int] = {}
    for file, length in lengths.items():
        room = file.relative_to(PACKAGE).parts[0]
        rooms[room] = rooms.get(room, 0) + length
    assert not {room: length for room, length in rooms.items() if length > 2500}
    recipes = {file: len(file.read_text().splitlines()) for file in (PACKAGE.parent / "recipes").glob("*.py")}
    assert recipes and not {file.name: n for file, n in recipes.items() if n > 150}


def test_text_is_utf_8_on_every_system():
    for file in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "attr", None) == "read_text":
                assert "encoding" in {keyword.arg for keyword in node.keywords}, f"{file}:{node.lineno}"

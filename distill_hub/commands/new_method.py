"""`distill-hub new-method`."""

from distill_hub.options.commands import NewMethodConfig
from distill_hub.text import typed


def run(config: NewMethodConfig) -> None:
    """Write a package with a method of your own: pyproject.toml with its entry point, recipe with options, method, tests.

    As it is, it makes distilled sets, of means of real images, and its tests pass. Once it is installed, `distill-hub make`,
    `reproduce` and `distill_hub.make` know the method, and records name the package and its version.

        distill-hub new-method my_method
        pip install -e "my_method[test]"
    """
    from distill_hub.launching.new_method import write_package

    folder = write_package(config.name, config.output_dir)
    place = typed(folder)
    print(
        f"The package is in {folder}: pyproject.toml, {config.name}/__init__.py (recipe and options), method.py, and tests"
    )
    print(f"Next: `pip install -e {place}` installs it, then `distill-hub make {config.name}` makes a set")

"""How a program that checks things ends."""

from collections.abc import Mapping


def tell_checks(name: str, checks: Mapping[str, bool]) -> int:
    """Print every check and how many passed, and return the exit status: 1 where one failed.

    Args:
        name: Of the program.
        checks: What was checked, and whether it is so.
    """
    for check, passed in checks.items():
        print(f"{'passed' if passed else 'FAILED'}  {check}")
    failed = sum(not passed for passed in checks.values())
    print(f"{name}: {len(checks) - failed} passed, {failed} failed")
    return 1 if failed else 0

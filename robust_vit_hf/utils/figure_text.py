"""Text in figures of matplotlib."""


def plain(text: str) -> str:
    """Text without mathematics, whatever a class or set is called: matplotlib would parse `$…$`, and fail on most of it."""
    return text.replace("$", r"\$")

"""Pictures and text in figures of matplotlib."""

# Axes that hold a picture and a title. Ticks take a third of the time to draw, also when `axis("off")` hides them.
PICTURE_AXES = {"frame_on": False, "xticks": [], "yticks": []}


def plain(text: str) -> str:
    """Text without mathematics, whatever a class or set is called: matplotlib would parse `$…$`, and fail on most of it."""
    return text.replace("$", r"\$")

"""Pictures with predictions under each, as HTML."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from PIL import Image

from ..utils.images import to_webp


# Marks of predictions, which do not depend on colours.
MARKS = {"right": "✓", "taken": "●", "other": "✗"}
STYLE = """
.cards {display: grid; grid-template-columns: repeat(auto-fill, minmax(145px, 1fr)); gap: 12px}
.cards figure {margin: 0; min-width: 0}
.cards img {width: 100%; aspect-ratio: 1; object-fit: contain; border-radius: 6px}
.cards figcaption {font-size: 12px; line-height: 1.35; overflow-wrap: anywhere}
.cards .right {color: #1a7f37} .cards .taken {color: #b3261e; font-weight: 600} .cards .other {color: #57606a}
.dark .cards .right {color: #4ac26b} .dark .cards .taken {color: #ff8d85} .dark .cards .other {color: #a9b3bd}
@media (max-width: 640px) {.cards {grid-template-columns: repeat(2, minmax(0, 1fr))}}
"""


@dataclass(frozen=True)
class Card:
    """A picture with predictions.

    Args:
        picture: in RGB.
        title: what it shows, with a longer `hint`.
        predictions: text and kind of each, see [`MARKS`].
    """

    picture: Image.Image
    title: str
    hint: str
    predictions: Sequence[tuple[str, str]]

    def html(self) -> str:
        source = f"data:image/webp;base64,{base64.b64encode(to_webp(self.picture)['bytes']).decode()}"
        lines = "".join(f'<div class="{kind}">{MARKS[kind]} {escape(text)}</div>' for text, kind in self.predictions)
        return (
            f'<figure title="{escape(self.hint)}"><img src="{source}" alt="{escape(self.hint)}">'
            f"<figcaption><b>{escape(self.title)}</b>{lines}</figcaption></figure>"
        )


def grid(cards: Sequence[Card]) -> str:
    """HTML of cards side by side."""
    return f'<div class="cards">{"".join(card.html() for card in cards)}</div>' if cards else ""

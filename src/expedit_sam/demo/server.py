"""Serving the page on this computer, and to nobody else unless told so."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from expedit_sam.allocator import share_arenas
from expedit_sam.demo.networks import Networks
from expedit_sam.listening import unavailable

UPLOAD_LIMIT = "40mb"
SESSIONS = 32  # people remembered at a time, about 50 MB each with vit_s, 150 with vit_b

_CSS = """
.gradio-container { width: 100% !important; max-width: 1200px !important;
  margin: 0 auto !important; }
.picture img { width: 100% !important; height: auto; max-height: 72vh; object-fit: contain; }
.file-preview .filename { display: block !important; font-size: 0; }
.file-preview .filename span { font-size: var(--text-md); }
.file-preview .stem { display: inline !important; }
.pending { opacity: 0.7 !important; }
input:is([type="radio"], [type="checkbox"], [type="number"], [type="range"]):focus-visible {
  outline: 2px solid var(--color-accent) !important; outline-offset: 2px; }
.file-preview .stem, #status code { white-space: normal !important; overflow-wrap: anywhere; }
#speed label:not(:first-child, [data-testid*="("]) span::after {  /* room for what is measured */
  content: " (0.0x)"; white-space: pre; visibility: hidden; }
.file-preview .download { min-width: max-content !important; }
button[role="tab"][aria-selected="true"] { color: var(--link-text-color) !important; }
@media (max-width: 480px) { button[role="tab"] { padding: 0 10px !important; } }
@media (forced-colors: active) {
  input { appearance: auto !important; }
  button { border: 1px solid !important; }
  button[role="tab"][aria-selected="true"] { background: Highlight; color: HighlightText !important;
    forced-color-adjust: none; }
}
"""

# For those who hear the page: names that Gradio does not give, results that it does not tell, and
# the language of nearly all words, in place of the browser's.
_HEAD = """
<script>
const told = {
  "html": (it) => (it.lang = "en"),
  "#examples img": (it) => (it.alt = it.src.split("/").pop()),
  "fieldset > [data-testid=block-info]": (it) => (it.parentElement.ariaLabel = it.textContent),
  "a[download]": (it) => (it.ariaLabel = `${it.download} ${it.textContent}`),
  ":is([id$=status], #mask-about) [data-testid=markdown]": (it) => (it.ariaLive = "polite"),
};
new MutationObserver(() => {
  for (const [which, tell] of Object.entries(told)) document.querySelectorAll(which).forEach(tell);
}).observe(document, { childList: true, subtree: true });
</script>
"""


@contextmanager
def running(networks: Networks, host: str, port: int) -> Iterator[str]:
    """The page, served in the background; gives its address.

    Raises:
        InputError: the address cannot be had.
    """
    share_arenas()
    with tempfile.TemporaryDirectory(prefix="expedit-sam-demo-") as folder:
        # Read when Gradio is imported or builds its parts: uploads go to a folder of our own,
        # and nothing is reported to anybody.
        os.environ["GRADIO_TEMP_DIR"] = folder
        os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
        os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"

        from expedit_sam.demo.page import build_page

        page = build_page(networks, Path(folder))
        try:
            _, address, _ = page.launch(
                server_name=f"[{host}]" if ":" in host else host,
                server_port=port,
                share=False,
                prevent_thread_lock=True,
                quiet=True,
                footer_links=[],
                run_history=False,
                ssr_mode=False,
                mcp_server=False,
                enable_monitoring=False,
                max_file_size=UPLOAD_LIMIT,
                state_session_capacity=SESSIONS,
                theme=_theme(),
                css=_CSS,
                head=_HEAD,
            )
        except OSError as error:
            raise unavailable(host, port) from error
        try:
            yield address
        finally:
            page.close(verbose=False)


def _theme() -> Any:
    """Gradio's own, with the computer's fonts, not downloaded ones, and in stronger contrast."""
    import gradio as gr

    theme = gr.themes.Default(
        primary_hue="blue",
        font=("system-ui", "sans-serif"),
        font_mono=("ui-monospace", "monospace"),
    )
    return theme.set(
        block_info_text_color="*neutral_600",
        block_info_text_color_dark="*neutral_300",
        block_label_text_color="*neutral_700",
        block_title_text_color="*neutral_800",
        body_text_color_subdued="*neutral_600",
        body_text_color_subdued_dark="*neutral_300",
        button_primary_background_fill="*primary_600",
        button_primary_background_fill_hover="*primary_700",
        link_text_color_dark="*secondary_400",
        link_text_color_visited="*secondary_600",
        link_text_color_visited_dark="*secondary_400",
    )

"""Pages of results: a frame that stands alone and loads nothing, charts as SVG, one style sheet and one script."""

"""Views of one image, drawn anew as sliders move: for a notebook that someone works in."""

from collections.abc import Sequence
from dataclasses import replace
from html import escape

import matplotlib.pyplot as plt
import numpy as np
import torch
from IPython.core.pylabtools import print_figure
from ipywidgets import HTML, FloatSlider, IntSlider, VBox

from manyviews.data.dataset import Split, area_downsample
from manyviews.report.figures import image_grid
from manyviews.simclr.views import ViewStrengths, make_views


def view_sliders(split: Split, names: Sequence[str], strengths: ViewStrengths, size: int, seed: int) -> VBox:
    """An image and seven of its views, with sliders for the image and for all that is one number.

    Without ipywidgets' interact, whose Output widget lets nbclient write to the channel on which it waits for
    the kernel's reply, so that executed notebooks hang now and then (nbclient's issue 312).

    Args:
        split: its images.
        names: of its classes.
        strengths: where the sliders begin.
        size: of the views, in pixels.
        seed: of the views.
    """
    numbers = {name: value for name, value in vars(strengths).items() if isinstance(value, float)}
    begin = {"min_crop": strengths.crop_scale[0]} | numbers
    look = {"step": 0.05, "continuous_update": False}
    sliders = {
        name: FloatSlider(value, min=0.05 * (name == "min_crop"), max=0.5 if name == "hue" else 1, **look)
        for name, value in begin.items()
    }
    sliders["image"] = IntSlider(0, 0, len(split.labels) - 1, continuous_update=False)
    picture = HTML()

    def draw(_: object = None) -> None:
        changed = {name: slider.value for name, slider in sliders.items()}
        image, crops = changed.pop("image"), (changed.pop("min_crop"), strengths.crop_scale[1])
        moved, which = replace(strengths, crop_scale=crops, **changed), torch.full((7,), image)
        pixels = make_views(split.as_tensor(), which, torch.arange(7), seed=seed, size=size, strengths=moved)
        views = pixels.permute(0, 2, 3, 1).numpy()
        original = area_downsample(split.images[image][None], size) / np.float32(255)
        label = f"{names[split.labels[image]]}, and seven views"
        figure = image_grid(np.concatenate([original, views])[None], [label])
        png = print_figure(figure, base64=True)
        picture.value = f'<img alt="An image: {escape(label)}" src="data:image/png;base64,{png}">'
        plt.close(figure)

    for name, slider in sliders.items():
        slider.description = name
        slider.observe(draw, "value")
    draw()
    return VBox([*sliders.values(), picture])

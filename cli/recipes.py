"""Recipes: what one source trained everything with. `--recipe NAME` makes these the defaults of the flags."""
from errors import unknown

RECIPES = {
    # RepDistiller, SimKD, HeadSharingKD. The learning rate is the network's: 0.05, or 0.01 for small ones.
    "crd": {"epochs": 240, "batch_size": 64, "learning_rate": None, "decays": [150, 180, 210], "lr_decay_rate": 0.1,
            "weight_decay": 5e-4, "momentum": 0.9, "nesterov": 0, "padding": "constant"},
    # Distilling Knowledge via Intermediate Classifiers, README and scripts. The README's table says a decay of 0.1,
    # every script 0.2.
    "dih": {"epochs": 200, "batch_size": 64, "learning_rate": 0.1, "decays": [60, 120, 180], "lr_decay_rate": 0.2,
            "weight_decay": 5e-4, "momentum": 0.9, "nesterov": 1, "padding": "reflect", "kd_T": 5.0},
    # The classic zoo (bearpaw's CIFAR training).
    "zoo": {"epochs": 164, "batch_size": 128, "learning_rate": 0.1, "decays": [81, 122], "lr_decay_rate": 0.1,
            "weight_decay": 1e-4, "momentum": 0.9, "nesterov": 0, "padding": "constant"},
}

# What a recipe sets for one method beyond that; METHOD+th has METHOD's. kdth, kdeth and crdth are not kd, kde and crd
# here: they keep HeadSharingKD's weights, under the recipe's optimiser and temperature.
METHOD_SETTINGS = {
    "dih": {
        "kd": {"gamma": 0.9, "alpha": 0.1},
        "hint": {"gamma": 0.9, "alpha": 0.1, "hint_stage": "two", "hint_layer": 1, "init_epochs": 40},
        "crd": {"gamma": 1.0, "alpha": 0.9, "beta": 0.8, "kd_T": 4.0},  # its script; the README's 0.03 is TOFD's beta
        "mhkd": {"kd_T": 4.0},
        "dml": {"kd_T": 1.0},
    },
}

DEFAULT = "crd"


def recipe_settings(name, method=None):
    """{flag: default} of a recipe, for runs of a method or of none (None); `decays` are the epochs of lr_decay_epochs
    at its `epochs`.

    Raises UsageError for an unknown recipe.
    """
    if name not in RECIPES:
        raise unknown("recipe", name, RECIPES)
    return RECIPES[name] | METHOD_SETTINGS.get(name, {}).get((method or "").split("+")[0], {})


def describe_recipes():
    """The recipes as lines for --help."""
    lines = ["recipes:"]
    for name, settings in RECIPES.items():
        lines.append(f"  {name:4} " + _text(settings))
        lines += [f"       {method}: {_text(more)}" for method, more in METHOD_SETTINGS.get(name, {}).items()]
    return "\n".join(lines)


def _text(settings):
    return ", ".join(f"{key} {'the network' if value is None else _value(value)}" for key, value in settings.items())


def _value(value):
    return "+".join(map(str, value)) if isinstance(value, list) else f"{value:g}" if isinstance(value, float) else value

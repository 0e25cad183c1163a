"""The name of a checkpoint's network, from its path."""
import re
from pathlib import Path

from models.registry import canonical, spellings


def name_from_path(path):
    """The registered name in a checkpoint's path, or None.

    It searches the directory's name, then the file's:
    - a student folder, S:resnet8_T:resnet32x4_..., also with - or ~ for the colon, gives the student;
    - otherwise the first registered name that stands as whole words, the longest if several start there
      (resnet8x4_student gives resnet8x4, MobileNetV2_1_0_vanilla gives MobileNetV2_1_0);
    - torchvision.NAME, the spelling of run folders, gives torchvision/NAME.
    An alias gives its registered name.
    """
    path = Path(path)
    return _name_in(path.parent.name) or _name_in(path.stem)


def _name_in(text):
    student = re.match(r"S[:~-](.+?)_T[:~-]", text)
    if student:
        text = student[1]
    names = spellings(text)
    longest_first = sorted(names, key=len, reverse=True)
    found = re.search(rf"(?<![A-Za-z0-9])({'|'.join(map(re.escape, longest_first))})(?![A-Za-z0-9])", text)
    return canonical(names[found[0]]) if found else None

"""Write contact sheets, or measure how dlib sees the portraits.

python -m demo.portraits sheet portraits.png --size 128
python -m demo.portraits scenes scenes.png
python -m demo.portraits measure --num 200
"""

import argparse

from demo.portraits.detection import measure_scenes
from demo.portraits.render import render_portraits
from demo.portraits.sampling import sample_portraits
from demo.portraits.scene import render_scenes, sample_scenes
from demo.portraits.sheet import contact_sheet


def main() -> None:
    """Run the command that the arguments name."""
    parser = argparse.ArgumentParser(prog="python -m demo.portraits")
    commands = parser.add_subparsers(dest="command", required=True)
    for name, num, size in (("sheet", 64, 128), ("scenes", 12, 512), ("measure", 200, 512)):
        command = commands.add_parser(name)
        if name != "measure":
            command.add_argument("path", help="the PNG file to write")
        command.add_argument("--num", type=int, default=num)
        command.add_argument("--size", type=int, default=size, help="side in pixels")
        command.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    if given.command == "measure":
        print(measure_scenes(given.num, given.seed, given.size))
        return
    if given.command == "sheet":
        pictures = render_portraits(sample_portraits(given.num, given.seed), given.size)
    else:
        pictures = render_scenes(sample_scenes(given.num, given.seed), given.size)
    contact_sheet(pictures, columns=max(1, round(given.num**0.5))).save(given.path)
    print(f"wrote {given.num} pictures to {given.path}")


if __name__ == "__main__":
    main()

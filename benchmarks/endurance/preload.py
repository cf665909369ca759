"""What takes long before a command begins to work: modules, and the detector of faces."""

import flows.cli  # noqa: F401
from tasks.detection import face_detector

face_detector()

"""What takes long before a command begins to work: modules, and the detector of faces."""

import flows.pipeline  # noqa: F401
from tasks.photos.detection import face_detector

face_detector()

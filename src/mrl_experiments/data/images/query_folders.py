"""Test images of some classes of a larger list, such as those that probe ImageNet models under shift."""

from mrl_experiments.data.images.class_list import class_list, folder_labels
from mrl_experiments.data.images.folder_source import FolderSource
from mrl_experiments.data.images.image_files import class_folders, image_files


class QueryFolders(FolderSource):
    """<root>/<folder>/* as the only split, labelled by the whole list of classes a model was trained on.

    So num_classes is that of the classifiers, whichever of the classes the images show.

    Args:
        split: How tables call the split.
        classes: The list, see `class_list`.
        mapping: None where folders are named like classes or numbered, or a file, see `folder_labels`.

    Raises:
        UserError: For a missing root, list or mapping, and for folders that are no class.
    """

    def __init__(
        self, name: str, root: str | None, split: str, classes: str | None, mapping: str | None
    ) -> None:
        super().__init__(name, root, "one folder of images per class")
        self.splits = (split,)
        folders = class_folders(self.root, self.skipped)
        self.classes = class_list(classes, folders)
        labels = folder_labels(folders or ["none"], self.classes, mapping)
        self._files = {split: image_files(self.root, labels, self.skipped)}

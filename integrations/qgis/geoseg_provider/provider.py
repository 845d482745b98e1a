"""The provider of the algorithms, and its settings: where the service is, and who asks it."""

from __future__ import annotations

from pathlib import Path

from processing.core.ProcessingConfig import ProcessingConfig, Setting
from qgis.core import QgsApplication, QgsProcessingProvider
from qgis.PyQt.QtGui import QIcon

from geoseg_provider.algorithms import ChangeAlgorithm, ScenesAlgorithm, SegmentAlgorithm
from geoseg_provider.connection import TOKEN, URL

__all__ = ["Plugin", "Provider"]

_GROUP = "geoseg"
_SETTINGS = (
    (URL, "Address of the service", "http://127.0.0.1:8080"),
    (TOKEN, "Id of an authentication configuration (Basic) whose password is the token", ""),
)


class Plugin:
    """What QGIS loads: nothing but the provider."""

    def __init__(self) -> None:
        self._provider: Provider | None = None

    def initProcessing(self) -> None:
        """Called by ``qgis_process``, and where there is a window by `initGui`."""
        self._provider = Provider()
        QgsApplication.processingRegistry().addProvider(self._provider)

    def initGui(self) -> None:
        """Called where there is a window."""
        self.initProcessing()

    def unload(self) -> None:
        """Takes the provider away."""
        QgsApplication.processingRegistry().removeProvider(self._provider)
        self._provider = None


class Provider(QgsProcessingProvider):
    """The processes of a service that make maps."""

    def id(self) -> str:
        return "geoseg"

    def name(self) -> str:
        return "geoseg"

    def icon(self) -> QIcon:
        return QIcon(str(Path(__file__).with_name("icon.svg")))

    def load(self) -> bool:
        ProcessingConfig.settingIcons[_GROUP] = self.icon()
        for name, title, default in _SETTINGS:
            ProcessingConfig.addSetting(Setting(_GROUP, name, title, default))
        ProcessingConfig.readSettings()
        self.refreshAlgorithms()
        return True

    def unload(self) -> None:
        for name, _, _ in _SETTINGS:
            ProcessingConfig.removeSetting(name)

    def loadAlgorithms(self) -> None:
        for algorithm in (SegmentAlgorithm(), ChangeAlgorithm(), ScenesAlgorithm()):
            self.addAlgorithm(algorithm)

    def supportedOutputRasterLayerExtensions(self) -> list[str]:
        return ["tif"]

    def supportedOutputVectorLayerExtensions(self) -> list[str]:
        return ["gpkg"]

    def supportsNonFileBasedOutput(self) -> bool:
        return False

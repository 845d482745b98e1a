"""The algorithms: inputs as parameters, a job of the service as the work, its files as layers in their colours."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from qgis.core import (
    QgsCoordinateReferenceSystem,
    QgsFeature,
    QgsFeatureSink,
    QgsField,
    QgsFields,
    QgsJsonUtils,
    QgsMapLayer,
    QgsProcessing,
    QgsProcessingAlgorithm,
    QgsProcessingContext,
    QgsProcessingException,
    QgsProcessingFeedback,
    QgsProcessingLayerPostProcessorInterface,
    QgsProcessingParameterDefinition,
    QgsProcessingParameterExtent,
    QgsProcessingParameterFeatureSink,
    QgsProcessingParameterRasterDestination,
    QgsProcessingParameterString,
    QgsProcessingParameterVectorDestination,
    QgsWkbTypes,
)
from qgis.PyQt.QtCore import QVariant

from geoseg_provider.client import Client, Ended, ServiceError
from geoseg_provider.connection import connect, known, remember

__all__ = ["ChangeAlgorithm", "ScenesAlgorithm", "SegmentAlgorithm"]

_DEGREES = "EPSG:4326"


class _Style(QgsProcessingLayerPostProcessorInterface):
    """Draws a layer as the style that came with its file says."""

    def postProcessLayer(self, layer: QgsMapLayer, _: QgsProcessingContext, __: QgsProcessingFeedback) -> None:
        layer.loadDefaultStyle()
        layer.triggerRepaint()


_STYLE = _Style()  # QGIS keeps no reference to it


class _Algorithm(QgsProcessingAlgorithm):
    """One that asks the service."""

    def prepareAlgorithm(self, _: dict[str, Any], __: QgsProcessingContext, feedback: QgsProcessingFeedback) -> bool:
        """Settings are read in the main thread, where QGIS may ask for its master password."""
        try:
            self._client: Client = connect(feedback)
        except ServiceError as error:
            raise QgsProcessingException(str(error)) from error
        return True

    def processAlgorithm(
        self, parameters: dict[str, Any], context: QgsProcessingContext, feedback: QgsProcessingFeedback
    ) -> dict[str, Any]:
        try:
            return self.work(parameters, context, feedback)
        except ServiceError as error:
            raise QgsProcessingException(str(error)) from error
        except Ended:
            return {}

    def work(
        self, parameters: dict[str, Any], context: QgsProcessingContext, feedback: QgsProcessingFeedback
    ) -> dict[str, Any]:
        """The outputs by name.

        Raises:
            ServiceError: The service does not give them.
            Ended: The user cancelled.
        """
        raise NotImplementedError

    def createInstance(self) -> QgsProcessingAlgorithm:
        return type(self)()


class _MapAlgorithm(_Algorithm):
    """One that asks for a map."""

    process: str
    """The process of the service; also the algorithm's name."""
    title: str
    """For people."""
    scenes: dict[str, str]
    """Inputs that are scenes, with their titles."""
    rasters: dict[str, str]
    """Results that are rasters, with their titles: the map first."""

    def name(self) -> str:
        return self.process

    def displayName(self) -> str:
        return self.title

    def shortHelpString(self) -> str:
        return (
            "The service that the settings of Processing name does the work; scenes are those that it lists (run "
            "'Scenes of the service' to see them), or links to files on hosts that it reads from. Cancelling stops "
            "the job at the service, too."
        )

    def initAlgorithm(self, _: Any = None) -> None:
        for name, title in self.scenes.items():
            self.addParameter(_choice(name.upper(), title, known("scenes")))
        self.addParameter(_choice("MODEL", "Model (default: the service's)", known(self.process), optional=True))
        self.addParameter(QgsProcessingParameterExtent("EXTENT", "Part of the scene", optional=True))
        title = 'Further inputs of the process, as JSON: {"tile": 512, "min_area": 1000}'
        more = QgsProcessingParameterString("OPTIONS", title, optional=True, multiLine=True)
        more.setFlags(more.flags() | QgsProcessingParameterDefinition.FlagAdvanced)
        self.addParameter(more)
        for place, (name, title) in enumerate(self.rasters.items()):
            target = QgsProcessingParameterRasterDestination(name.upper(), title, optional=place > 0)
            target.setCreateByDefault(place == 0)
            self.addParameter(target)
        kind = QgsProcessing.TypeVectorPolygon
        self.addParameter(QgsProcessingParameterVectorDestination("POLYGONS", "Polygons", kind, optional=True))

    def work(
        self, parameters: dict[str, Any], context: QgsProcessingContext, feedback: QgsProcessingFeedback
    ) -> dict[str, Any]:
        wanted = {name: self.parameterAsOutputLayer(parameters, name.upper(), context) for name in self.rasters}
        wanted["polygons_gpkg"] = self.parameterAsOutputLayer(parameters, "POLYGONS", context)

        def tell(percent: int, message: str) -> None:
            feedback.setProgress(percent)
            feedback.setProgressText(message)

        inputs = self._inputs(parameters, context) | {"vector": ["gpkg"] if wanted["polygons_gpkg"] else []}
        found = self._client.run(self.process, inputs, tell)
        made = {}
        for name, path in wanted.items():
            if path:
                made["POLYGONS" if name == "polygons_gpkg" else name.upper()] = path
                self._fetch(found, name, Path(path))
                if context.willLoadLayerOnCompletion(path):
                    context.layerToLoadOnCompletionDetails(path).setPostProcessor(_STYLE)
        return made

    def _fetch(self, found: dict[str, str], name: str, path: Path) -> None:
        """Writes a result, and its style beside it where it does not bring its own."""
        if name not in found:
            raise ServiceError(f"the job made no {name}; it made {', '.join(sorted(found))}")
        self._client.download(found[name], path)
        if f"{name}_qml" in found:
            self._client.download(found[f"{name}_qml"], path.with_suffix(".qml"))

    def _inputs(self, parameters: dict[str, Any], context: QgsProcessingContext) -> dict[str, Any]:
        text = self.parameterAsString(parameters, "OPTIONS", context).strip()
        try:
            inputs = json.loads(text) if text else {}
        except ValueError as error:
            raise ServiceError(f"OPTIONS: no JSON ({error})") from error
        if not isinstance(inputs, dict):
            raise ServiceError('OPTIONS: names and values, like {"tile": 512}')
        for name in self.scenes:
            scene = self.parameterAsString(parameters, name.upper(), context).strip()
            inputs[name] = {"href": scene} if "://" in scene else scene
        if model := self.parameterAsString(parameters, "MODEL", context).strip():
            inputs["model"] = model
        if parameters.get("EXTENT"):
            box = self.parameterAsExtent(parameters, "EXTENT", context, QgsCoordinateReferenceSystem(_DEGREES))
            inputs["bbox"] = [box.xMinimum(), box.yMinimum(), box.xMaximum(), box.yMaximum()]
        return inputs


class SegmentAlgorithm(_MapAlgorithm):
    """A map of classes."""

    process = "segment"
    title = "Map a scene"
    scenes = {"scene": "Scene"}  # noqa: RUF012 - a constant
    rasters = {"labels": "Map", "confidence": "Confidence"}  # noqa: RUF012 - a constant


class ChangeAlgorithm(_MapAlgorithm):
    """A map of what changed."""

    process = "change"
    title = "Map what changed"
    scenes = {"before": "Scene before", "after": "Scene after"}  # noqa: RUF012 - a constant
    rasters = {"change": "Change", "change_probability": "Probability of change"}  # noqa: RUF012 - a constant


class ScenesAlgorithm(_Algorithm):
    """The outlines of what there is to map; from then on the other algorithms offer it."""

    def name(self) -> str:
        return "scenes"

    def displayName(self) -> str:
        return "Scenes of the service"

    def shortHelpString(self) -> str:
        return "Outlines of the scenes that the service lists. The other algorithms then offer its scenes and models."

    def initAlgorithm(self, _: Any = None) -> None:
        kind = QgsProcessing.TypeVectorPolygon
        self.addParameter(QgsProcessingParameterFeatureSink("OUTLINES", "Scenes", kind))

    def work(
        self, parameters: dict[str, Any], context: QgsProcessingContext, feedback: QgsProcessingFeedback
    ) -> dict[str, Any]:
        scenes = self._client.get("/scenes")["features"]
        self._remember(scenes, feedback)
        fields = QgsFields()
        for name in ("id", "datetime", "bands"):
            fields.append(QgsField(name, QVariant.String))
        system = QgsCoordinateReferenceSystem(_DEGREES)
        sink, place = self.parameterAsSink(parameters, "OUTLINES", context, fields, QgsWkbTypes.MultiPolygon, system)
        for scene in scenes:
            outline = QgsJsonUtils.stringToFeatureList(json.dumps({**scene, "properties": {}}))[0].geometry()
            outline.convertToMultiType()
            feature, told = QgsFeature(fields), scene["properties"]
            feature.setGeometry(outline)
            feature.setAttributes([scene["id"], told.get("datetime"), " ".join(told.get("bands", []))])
            sink.addFeature(feature, QgsFeatureSink.FastInsert)
        return {"OUTLINES": place}

    def _remember(self, scenes: list[dict[str, Any]], feedback: QgsProcessingFeedback) -> None:
        remember("scenes", [scene["id"] for scene in scenes])
        for listed in self._client.get("/processes")["processes"]:
            process = listed["id"]
            if process in {SegmentAlgorithm.process, ChangeAlgorithm.process}:
                schema = self._client.get(f"/processes/{process}")["inputs"]["model"]["schema"]
                models = schema.get("enum") or [schema["const"]]
                remember(process, models)
                feedback.pushInfo(f"{process}: {', '.join(models)}")


def _choice(name: str, title: str, offered: list[str], *, optional: bool = False) -> QgsProcessingParameterString:
    """Text with values to choose from, which need not be all that there are."""
    parameter = QgsProcessingParameterString(name, title, optional=optional)
    if offered:
        parameter.setMetadata({"widget_wrapper": {"value_hints": offered}})
    return parameter

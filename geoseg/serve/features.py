"""Routes of the service: features."""

from __future__ import annotations

from fastapi import APIRouter

from geoseg.serve.service import Service

__all__ = ["router"]


def router(service: Service) -> APIRouter:  # noqa: ARG001
    """The routes of this part."""
    return APIRouter()

"""Depth and bodies of a MuJoCo scene, drawn without colours: names of pixels and how far they are.

One pass gives both. What is half transparent counts as solid; what is invisible is not there.
"""

from importlib import import_module
from typing import Any

import numpy as np
from jaxtyping import Float64, Int64, UInt8

from saccade.data.truth import SceneTruth
from saccade.errors import DataError
from saccade.sim import graphics

graphics.choose()
mujoco: Any = import_module("mujoco")  # its types are not written down

MOST = 10_000  # shapes of a scene


class Surveyor:
    """Draws what a camera sees of a scene, as a ``SceneTruth`` of one frame. Close it after use.

    Each body of the model is a body, and after them each site is one: tasks place sites by hand.

    Args:
        model: the scene.
        size: side of the pictures, in pixels.
    """

    def __init__(self, model: Any, size: int) -> None:
        self.model, self.size = model, size
        visual = model.vis
        before = visual.quality.offsamples, visual.global_.offwidth, visual.global_.offheight
        self._gl = mujoco.GLContext(size, size)
        self._gl.make_current()
        visual.quality.offsamples = 0  # the mean of two names would be the name of a third
        visual.global_.offwidth = visual.global_.offheight = size
        self._context = mujoco.MjrContext(model, mujoco.mjtFontScale.mjFONTSCALE_100.value)
        visual.quality.offsamples, visual.global_.offwidth, visual.global_.offheight = before
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN.value, self._context)
        self._context.readDepthMap = mujoco.mjtDepthMap.mjDEPTH_ZEROFAR.value
        self._scene = mujoco.MjvScene(model, MOST)
        for flag in ("SEGMENT", "IDCOLOR"):
            self._scene.flags[getattr(mujoco.mjtRndFlag, f"mjRND_{flag}")] = 1

    def __call__(self, data: Any, camera: str, turned: bool = False) -> SceneTruth:
        """Draw the scene as it is now; ``turned`` for a camera that hangs upside down.

        Raises:
            DataError: nothing is seen, which broken drivers give without an error, or something
                that is no rigid body.
        """
        depth, names = self._draw(data, self.model.camera(camera).id)
        if not names.any():
            raise DataError(f"camera {camera} sees no body of the scene; run: saccade doctor")
        if turned:
            depth, names = depth[::-1, ::-1], names[::-1, ::-1]
        seen = data.camera(camera)
        turn = -1 if turned else 1
        pose = _pose(seen.xmat.reshape(3, 3) * np.array([turn, -turn, -1]), seen.xpos)
        focal = self.size / 2 / np.tan(np.radians(self.model.camera(camera).fovy[0]) / 2)
        centre = (self.size - 1) / 2
        things = (
            _pose(data.xmat.reshape(-1, 3, 3), data.xpos),
            _pose(data.site_xmat.reshape(-1, 3, 3), data.site_xpos),
        )
        return SceneTruth(
            depth=depth[None].astype(np.float32),
            body=self._bodies(camera)[names][None].astype(np.uint16),
            poses=np.concatenate(things)[None].astype(np.float32),
            camera=pose[None],
            intrinsics=np.array([[focal, 0, centre], [0, focal, centre], [0, 0, 1]]),
        )

    def close(self) -> None:
        """Free the graphics memory."""
        self._gl.make_current()
        self._context.free()
        self._gl.free()

    def _draw(
        self, data: Any, camera: int
    ) -> tuple[Float64[np.ndarray, "h w"], Int64[np.ndarray, "h w"]]:
        """Return depths in metres, and numbers of shapes in the scene, 0 where there is none."""
        view = mujoco.MjvCamera()
        view.type, view.fixedcamid = mujoco.mjtCamera.mjCAMERA_FIXED, camera
        every = mujoco.mjtCatBit.mjCAT_ALL.value
        mujoco.mjv_updateScene(self.model, data, mujoco.MjvOption(), None, view, every, self._scene)
        self._gl.make_current()
        rect = mujoco.MjrRect(0, 0, self.size, self.size)
        mujoco.mjr_render(rect, self._scene, self._context)
        colours = np.empty((self.size, self.size, 3), np.uint8)
        buffer = np.empty((self.size, self.size), np.float32)
        mujoco.mjr_readPixels(colours, buffer, rect, self._context)
        return self._metres(buffer)[::-1], _numbers(colours)[::-1]  # OpenGL begins at the bottom

    def _metres(self, buffer: Any) -> Float64[np.ndarray, "h w"]:
        """Undo the perspective: the buffer goes from 1 at the near plane to 0 at the far one."""
        extent, planes = self.model.stat.extent, self.model.vis.map
        near, far = planes.znear * extent, planes.zfar * extent
        return near * far / (near + buffer.astype(np.float64) * (far - near))

    def _bodies(self, camera: str) -> Int64[np.ndarray, " n"]:
        """Return the body of each shape of the scene, by its number."""
        kinds = mujoco.mjtObj
        bodies = np.zeros(MOST + 1, np.int64)
        for shape in self._scene.geoms[: self._scene.ngeom]:
            if shape.objtype == kinds.mjOBJ_GEOM:
                bodies[shape.segid + 1] = self.model.geom_bodyid[shape.objid]
            elif shape.objtype == kinds.mjOBJ_SITE:
                bodies[shape.segid + 1] = self.model.nbody + shape.objid
            elif shape.segid >= 0:
                raise DataError(
                    f"camera {camera} draws a shape of MuJoCo's kind {shape.objtype}, which is no "
                    "rigid body; its flow is not known"
                )
        return bodies


def _numbers(colours: UInt8[np.ndarray, "h w 3"]) -> Int64[np.ndarray, "h w"]:
    return colours.astype(np.int64) @ np.array([1, 1 << 8, 1 << 16])


def _pose(
    rotation: Float64[np.ndarray, "*b 3 3"], place: Float64[np.ndarray, "*b 3"]
) -> Float64[np.ndarray, "*b 4 4"]:
    pose = np.zeros((*place.shape[:-1], 4, 4))
    pose[..., :3, :3], pose[..., :3, 3], pose[..., 3, 3] = rotation, place, 1
    return pose

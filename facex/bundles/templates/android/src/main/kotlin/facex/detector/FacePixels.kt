// Pixels of any buffer to the model's input, in plain Kotlin without Android. Frames as in FaceGeometry.kt.
package facex.detector

import java.nio.ByteBuffer
import kotlin.math.abs
import kotlin.math.ceil
import kotlin.math.max
import kotlin.math.min

/** Rows of 8-bit RGB, each pixel 0xRRGGBB; the upper byte says nothing. */
interface Rows {
    val width: Int
    val height: Int

    /** Writes row [y] into [rgb], which holds at least [width] values. */
    fun read(y: Int, rgb: IntArray)
}

/** A plane of a YUV picture: sample (column, row) is byte `offset + row * rowStride + column * pixelStride`. */
class Plane(val buffer: ByteBuffer, val rowStride: Int, val pixelStride: Int, val offset: Int = 0)

/**
 * A crop of a YUV 4:2:0 picture, a chroma sample for every 2x2 pixels, in BT.601 with the full range of 0-255: what
 * JPEG uses and Android's cameras give as YUV_420_888. Positions of the buffers are neither used nor changed.
 */
class YuvRows(y: Plane, u: Plane, v: Plane, private val crop: Crop) : Rows {
    override val width get() = crop.width
    override val height get() = crop.height
    private val luma = RowReader(y, crop.left, crop.left + crop.width - 1)
    private val blue = RowReader(u, crop.left / 2, (crop.left + crop.width - 1) / 2)
    private val red = RowReader(v, crop.left / 2, (crop.left + crop.width - 1) / 2)

    override fun read(y: Int, rgb: IntArray) {
        val row = crop.top + y
        luma.read(row)
        blue.read(row / 2)
        red.read(row / 2)
        val firstChroma = crop.left / 2
        for (x in 0 until crop.width) {
            val chroma = (crop.left + x) / 2 - firstChroma
            rgb[x] = rgbOf(luma[x], blue[chroma], red[chroma])
        }
    }

    companion object {
        /** NV21 without padding, as ML Kit takes it: luma, then V and U in turns. */
        fun nv21(buffer: ByteBuffer, width: Int, height: Int, crop: Crop): YuvRows {
            val stride = (width + 1) / 2 * 2
            val chroma = width * height
            requireBytes(buffer, chroma + stride * ((height + 1) / 2), "NV21", width, height)
            return YuvRows(
                Plane(buffer, width, 1), Plane(buffer, stride, 2, chroma + 1), Plane(buffer, stride, 2, chroma), crop,
            )
        }

        /** YV12 without padding, as ML Kit takes it: luma, then V, then U. */
        fun yv12(buffer: ByteBuffer, width: Int, height: Int, crop: Crop): YuvRows {
            val stride = (width + 1) / 2
            val red = width * height
            val blue = red + stride * ((height + 1) / 2)
            requireBytes(buffer, blue + stride * ((height + 1) / 2), "YV12", width, height)
            return YuvRows(Plane(buffer, width, 1), Plane(buffer, stride, 1, blue), Plane(buffer, stride, 1, red), crop)
        }

        private fun requireBytes(buffer: ByteBuffer, bytes: Int, format: String, width: Int, height: Int) =
            require(buffer.limit() >= bytes) {
                "$format of ${width}x$height takes $bytes bytes without padding, the buffer has ${buffer.limit()}"
            }

        /** JFIF's conversion in 16-bit fixed point; equal to the formula in floats within 1. */
        fun rgbOf(y: Int, u: Int, v: Int): Int {
            val cb = u - 128
            val cr = v - 128
            val r = byte(y + ((91881 * cr + 32768) shr 16))
            val g = byte(y - ((22554 * cb + 46802 * cr + 32768) shr 16))
            val b = byte(y + ((116130 * cb + 32768) shr 16))
            return (r shl 16) or (g shl 8) or b
        }
    }
}

/** Samples [first] to [last] of a plane's rows. The last row of a camera's plane ends with its last sample. */
private class RowReader(private val plane: Plane, private val first: Int, private val last: Int) {
    private val view = plane.buffer.duplicate()
    private val bytes = ByteArray((last - first) * plane.pixelStride + 1)

    fun read(row: Int) {
        view.position(plane.offset + row * plane.rowStride + first * plane.pixelStride)
        view.get(bytes)
    }

    operator fun get(index: Int) = bytes[index * plane.pixelStride].toInt() and 255
}

private fun byte(value: Int) = if (value < 0) 0 else if (value > 255) 255 else value

/**
 * Letterboxes pictures into RGB bytes, a row of the input after the other. Resizes with a triangle filter that widens
 * when it shrinks (as Pillow's BILINEAR does, with which parity was measured), first along rows of the buffer and then
 * along its columns, both rounded to 8 bits. Keeps its memory from call to call; not thread-safe.
 */
class Letterboxer(private val inputWidth: Int, private val inputHeight: Int, private val padding: IntArray) {
    private var row = IntArray(0)
    private var narrow = ByteArray(0)

    /** Fills [into], `inputWidth * inputHeight * 3` bytes from its start, with [rows], the crop of [frame]. */
    fun fill(rows: Rows, frame: Frame, into: ByteBuffer): Letterbox {
        require(rows.width == frame.crop.width && rows.height == frame.crop.height) {
            "rows of ${rows.width}x${rows.height} for a crop of ${frame.crop.width}x${frame.crop.height}"
        }
        val box = letterbox(frame.uprightWidth, frame.uprightHeight, inputWidth, inputHeight)
        val turned = frame.rotationDegrees % 180 != 0
        val width = if (turned) box.contentHeight else box.contentWidth
        val height = if (turned) box.contentWidth else box.contentHeight
        shrinkRows(rows, width)
        pad(box, into)
        val vertical = Filter(rows.height, height)
        for (y in 0 until height) {
            for (x in 0 until width) {
                // where a pixel of the resized buffer stands in the upright content
                val target = 3 * when (frame.rotationDegrees) {
                    90 -> x * inputWidth + height - 1 - y
                    180 -> (height - 1 - y) * inputWidth + width - 1 - x
                    270 -> (width - 1 - x) * inputWidth + y
                    else -> y * inputWidth + x
                }
                for (channel in 0..2) {
                    var sum = Filter.HALF
                    for (k in 0 until vertical.count[y]) {
                        val at = ((vertical.first[y] + k) * width + x) * 3 + channel
                        sum += (narrow[at].toInt() and 255) * vertical.weights[y * vertical.size + k]
                    }
                    into.put(target + channel, byte(sum shr Filter.BITS).toByte())
                }
            }
        }
        return box
    }

    private fun shrinkRows(rows: Rows, width: Int) {
        if (row.size < rows.width) row = IntArray(rows.width)
        if (narrow.size < width * rows.height * 3) narrow = ByteArray(width * rows.height * 3)
        val filter = Filter(rows.width, width)
        for (y in 0 until rows.height) {
            rows.read(y, row)
            for (x in 0 until width) {
                var r = Filter.HALF
                var g = Filter.HALF
                var b = Filter.HALF
                for (k in 0 until filter.count[x]) {
                    val pixel = row[filter.first[x] + k]
                    val weight = filter.weights[x * filter.size + k]
                    r += (pixel shr 16 and 255) * weight
                    g += (pixel shr 8 and 255) * weight
                    b += (pixel and 255) * weight
                }
                val at = (y * width + x) * 3
                narrow[at] = byte(r shr Filter.BITS).toByte()
                narrow[at + 1] = byte(g shr Filter.BITS).toByte()
                narrow[at + 2] = byte(b shr Filter.BITS).toByte()
            }
        }
    }

    private fun pad(box: Letterbox, into: ByteBuffer) {
        for (y in 0 until inputHeight) {
            for (x in (if (y < box.contentHeight) box.contentWidth else 0) until inputWidth) {
                for (channel in 0..2) into.put((y * inputWidth + x) * 3 + channel, padding[channel].toByte())
            }
        }
    }
}

/** Weights of a resize along one axis: output i is the sum of `weights[i * size + k] * input[first[i] + k]`. */
private class Filter(source: Int, target: Int) {
    private val step = source.toDouble() / target
    private val reach = max(1.0, step)
    val size = ceil(reach).toInt() * 2 + 1
    val first = IntArray(target)
    val count = IntArray(target)
    val weights = IntArray(target * size)

    init {
        for (i in 0 until target) {
            val centre = (i + 0.5) * step
            first[i] = max(0, (centre - reach + 0.5).toInt())
            count[i] = min(source, (centre + reach + 0.5).toInt()) - first[i]
            val raw = DoubleArray(count[i]) { k -> max(0.0, 1 - abs((first[i] + k - centre + 0.5) / reach)) }
            val sum = raw.sum()
            for (k in raw.indices) weights[i * size + k] = Math.round(raw[k] / sum * (1 shl BITS)).toInt()
        }
    }

    companion object {
        /** 255 times weights that sum to 2^22 is still an Int. */
        const val BITS = 22
        const val HALF = 1 shl (BITS - 1)
    }
}

// Answers questions about the pure part of the Android module: a JSON object a line on stdin, its answer on stdout.
package facex.detector

import java.io.File
import java.nio.ByteBuffer
import java.nio.ByteOrder

/** Pixels in memory, as a decoded picture has them. */
private class PackedRows(private val rgb: ByteArray, private val stride: Int, private val crop: Crop) : Rows {
    override val width get() = crop.width
    override val height get() = crop.height

    override fun read(y: Int, rgb: IntArray) {
        for (x in 0 until width) {
            val at = ((crop.top + y) * stride + crop.left + x) * 3
            // the upper byte is an alpha that must not matter
            rgb[x] = (0x7f shl 24) or (at(at) shl 16) or (at(at + 1) shl 8) or at(at + 2)
        }
    }

    private fun at(index: Int) = rgb[index].toInt() and 255
}

private fun Any?.int() = (this as Double).toInt()
private fun Any?.ints() = (this as List<*>).map { it.int() }
private fun bytes(path: Any?) = File(path as String).readBytes()

private fun floats(path: Any?): FloatArray {
    val view = ByteBuffer.wrap(bytes(path)).order(ByteOrder.LITTLE_ENDIAN).asFloatBuffer()
    return FloatArray(view.remaining()).also { view.get(it) }
}

private fun plain(face: Face) = listOf(face.score) + face.box.toList() + face.landmarks.toList()

private fun frame(ask: Map<*, *>): Frame {
    val (width, height) = ask["source"].ints()
    val (left, top, cropWidth, cropHeight) = (ask["crop"] as? List<*>)?.ints() ?: listOf(0, 0, width, height)
    return Frame(width, height, ask["rotation"].int(), Crop(left, top, cropWidth, cropHeight))
}

private class Case(ask: Map<*, *>) {
    val description = Description.parse(File(ask["description"] as String).readText())
    val model = description.models.first { it.file == ask["model"] }
    val faces = Head(description, model).faces(
        (ask["outputs"] as Map<*, *>).entries.associate { (name, path) -> name as String to floats(path) },
    )
}

private fun mapped(ask: Map<*, *>): Any {
    val case = Case(ask)
    val frame = frame(ask)
    val letterbox = letterbox(frame.uprightWidth, frame.uprightHeight, case.model.width, case.model.height)
    val upright = case.faces.map { toUpright(it, letterbox, frame) }
    return mapOf(
        "input" to case.faces.map(::plain),
        "upright" to upright.map(::plain),
        "buffer" to upright.map { plain(frame.toBuffer(it)) },
    )
}

private fun verdict(ask: Map<*, *>): Any {
    val case = Case(ask)
    val golden = case.description.goldens[ask["golden"].int()]
    val found = compare(golden.faces, case.faces, case.model.tolerances, case.description.scoreThreshold)
    return mapOf(
        "passed" to found.passed, "pairs" to found.pairs, "lost" to found.lost, "extra" to found.extra,
        "score" to found.worstScore, "box" to found.worstBox, "landmark" to found.worstLandmark,
    )
}

private fun filled(ask: Map<*, *>): Any {
    val (inputWidth, inputHeight) = ask["input"].ints()
    val letterboxer = Letterboxer(inputWidth, inputHeight, ask["padding"].ints().toIntArray())
    return (ask["pictures"] as List<*>).map { entry ->
        val picture = entry as Map<*, *>
        val frame = frame(picture)
        val into = ByteBuffer.allocateDirect(inputWidth * inputHeight * 3)
        val box = letterboxer.fill(rows(picture, frame), frame, into)
        File(picture["into"] as String).writeBytes(ByteArray(into.capacity()).also { into.duplicate().get(it) })
        listOf(box.scale, box.contentWidth, box.contentHeight)
    }
}

private fun rows(picture: Map<*, *>, frame: Frame): Rows {
    val data = bytes(picture["pixels"])
    // a position that is not 0, which must not matter
    val buffer = ByteBuffer.wrap(data).apply { position(data.size / 2) }
    return when (picture["format"]) {
        "rgb" -> PackedRows(data, frame.width, frame.crop)
        "nv21" -> YuvRows.nv21(buffer, frame.width, frame.height, frame.crop)
        "yv12" -> YuvRows.yv12(buffer, frame.width, frame.height, frame.crop)
        else -> {
            val (y, u, v) = (picture["planes"] as List<*>).map { plane ->
                val (from, to, rowStride, pixelStride) = plane.ints()
                Plane(ByteBuffer.wrap(data.copyOfRange(from, to)), rowStride, pixelStride)
            }
            YuvRows(y, u, v, frame.crop)
        }
    }
}

private fun described(ask: Map<*, *>): Any {
    val found = Description.parse(ask["text"] as String)
    return mapOf(
        "strides" to found.contract.strides, "min_sizes" to found.contract.minSizes,
        "variances" to found.contract.variances, "padding_rgb" to found.paddingRgb.toList(),
        "score_threshold" to found.scoreThreshold, "nms_iou" to found.nmsIou, "saturated_score" to found.saturatedScore,
        "models" to found.models.map {
            val off = listOf(it.tolerances.score, it.tolerances.box, it.tolerances.landmark)
            listOf(it.file, it.precision, it.head, it.width, it.height, it.landmarks, it.minimumRuntime) + off
        },
        "goldens" to found.goldens.map {
            listOf(it.file, it.sourceWidth, it.sourceHeight, it.scale, it.faces.map(::plain))
        },
        "choosing" to found.choosing.file,
    )
}

private fun converted(ask: Map<*, *>): Any = (ask["yuv"] as List<*>).map {
    val (y, u, v) = it.ints()
    YuvRows.rgbOf(y, u, v)
}

private fun answer(ask: Map<*, *>): Any = when (ask["ask"]) {
    "faces" -> Case(ask).faces.map(::plain)
    "mapped" -> mapped(ask)
    "verdict" -> verdict(ask)
    "fill" -> filled(ask)
    "description" -> described(ask)
    "convert" -> converted(ask)
    "letterbox" -> (ask["sizes"] as List<*>).map {
        val (width, height, inputWidth, inputHeight) = it.ints()
        val box = letterbox(width, height, inputWidth, inputHeight)
        listOf(box.scale, box.contentWidth, box.contentHeight)
    }
    "priors" -> {
        val (width, height) = ask["input"].ints()
        priors(Description.parse(File(ask["description"] as String).readText()).contract, width, height).toList()
    }
    else -> error("unknown: $ask")
}

private fun escaped(character: Char) =
    if (character < ' ' || character in "\"\\") "\\u%04x".format(character.code) else "$character"

private fun json(value: Any?): String = when (value) {
    is Map<*, *> -> value.entries.joinToString(",", "{", "}") { (name, item) -> "\"$name\":${json(item)}" }
    is List<*> -> value.joinToString(",", "[", "]", transform = ::json)
    is String -> value.map(::escaped).joinToString("", "\"", "\"")
    else -> "$value"
}

fun main() {
    for (line in generateSequence { readlnOrNull() }) {
        // a wrong input is an answer too
        println(
            try {
                json(answer(Json(line).value() as Map<*, *>))
            } catch (error: IllegalArgumentException) {
                json(mapOf("error" to error.message))
            } catch (error: IllegalStateException) {
                json(mapOf("error" to error.message))
            },
        )
    }
}

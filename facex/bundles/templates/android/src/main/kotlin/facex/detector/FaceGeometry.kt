// The arithmetic around the model, in plain Kotlin without Android: the same as facex's own in Python, and tested
// against it on a JVM. Frames: *buffer* is the picture as it lies in memory, *upright* is that rotated for viewing,
// *input pixels* are those of the letterboxed model input. Origin at the top left corner, x to the right, y down;
// a coordinate is a position, so pixel i covers i to i + 1.
package facex.detector

import kotlin.math.abs
import kotlin.math.exp
import kotlin.math.hypot
import kotlin.math.max
import kotlin.math.min
import kotlin.math.sqrt

/**
 * A face. [box] is left, top, right, bottom; [landmarks] is x, y of every point in turn. Neither is clamped: a face at
 * the border may reach beyond the picture.
 */
class Face(val score: Float, val box: FloatArray, val landmarks: FloatArray) {
    val left get() = box[0]
    val top get() = box[1]
    val right get() = box[2]
    val bottom get() = box[3]

    override fun toString() = "Face(score=$score, box=${box.contentToString()})"
}

// Where things are

/** A part of a buffer, in its pixels. */
class Crop(val left: Int, val top: Int, val width: Int, val height: Int)

/**
 * How a picture lies in memory. [rotationDegrees] is the clockwise turn that makes it upright, as ML Kit and CameraX
 * state it; only [crop] is looked at.
 */
class Frame(
    val width: Int,
    val height: Int,
    val rotationDegrees: Int = 0,
    val crop: Crop = Crop(0, 0, width, height),
) {
    init {
        require(rotationDegrees in setOf(0, 90, 180, 270)) { "rotation is $rotationDegrees, not 0, 90, 180 or 270" }
        val inside = crop.left >= 0 && crop.top >= 0 && crop.width > 0 && crop.height > 0 &&
            crop.left + crop.width <= width && crop.top + crop.height <= height
        require(inside) { "crop ${crop.width}x${crop.height} at ${crop.left}, ${crop.top} is not in ${width}x$height" }
    }

    private val turned get() = rotationDegrees % 180 != 0

    /** Of the crop, upright. */
    val uprightWidth get() = if (turned) crop.height else crop.width
    val uprightHeight get() = if (turned) crop.width else crop.height

    /** Where the crop lies in the whole upright picture. */
    val uprightLeft get() = when (rotationDegrees) {
        90 -> height - crop.top - crop.height
        180 -> width - crop.left - crop.width
        270 -> crop.top
        else -> crop.left
    }
    val uprightTop get() = when (rotationDegrees) {
        90 -> crop.left
        180 -> height - crop.top - crop.height
        270 -> width - crop.left - crop.width
        else -> crop.top
    }

    /** A point of the whole upright picture to the buffer: x, y. */
    fun toBuffer(x: Float, y: Float): FloatArray = when (rotationDegrees) {
        90 -> floatArrayOf(y, height - x)
        180 -> floatArrayOf(width - x, height - y)
        270 -> floatArrayOf(width - y, x)
        else -> floatArrayOf(x, y)
    }

    /** A face of the whole upright picture in the pixels of the buffer; its box is again left, top, right, bottom. */
    fun toBuffer(face: Face): Face {
        val a = toBuffer(face.left, face.top)
        val b = toBuffer(face.right, face.bottom)
        val points = FloatArray(face.landmarks.size)
        for (i in points.indices step 2) {
            val (x, y) = toBuffer(face.landmarks[i], face.landmarks[i + 1])
            points[i] = x
            points[i + 1] = y
        }
        val box = floatArrayOf(min(a[0], b[0]), min(a[1], b[1]), max(a[0], b[0]), max(a[1], b[1]))
        return Face(face.score, box, points)
    }
}

/** A picture in the model's frame: its aspect kept, at the top left; [scale] is input pixels per upright pixel. */
class Letterbox(val scale: Double, val contentWidth: Int, val contentHeight: Int)

fun letterbox(uprightWidth: Int, uprightHeight: Int, inputWidth: Int, inputHeight: Int): Letterbox {
    val scale = min(inputHeight.toDouble() / uprightHeight, inputWidth.toDouble() / uprightWidth)
    // Math.rint rounds half to even, as the reference does
    val width = Math.rint(uprightWidth * scale).toInt().coerceIn(1, inputWidth)
    val height = Math.rint(uprightHeight * scale).toInt().coerceIn(1, inputHeight)
    return Letterbox(scale, width, height)
}

/** A face in input pixels to the whole upright picture. */
fun toUpright(face: Face, letterbox: Letterbox, frame: Frame): Face {
    val scale = letterbox.scale
    fun mapped(values: FloatArray) = FloatArray(values.size) { i ->
        (values[i] / scale + if (i % 2 == 0) frame.uprightLeft else frame.uprightTop).toFloat()
    }
    return Face(face.score, mapped(face.box), mapped(face.landmarks))
}

// What the model says

/**
 * Anchor boxes of every cell by level, row, column, min size: centre x, centre y, width, height in input pixels.
 */
fun priors(contract: Contract, inputWidth: Int, inputHeight: Int): FloatArray {
    val found = ArrayList<Float>()
    for ((stride, sides) in contract.strides.zip(contract.minSizes)) {
        for (row in 0 until (inputHeight + stride - 1) / stride) {
            for (column in 0 until (inputWidth + stride - 1) / stride) {
                for (side in sides) {
                    found += ((column + 0.5) * stride).toFloat()
                    found += ((row + 0.5) * stride).toFloat()
                    found += side.toFloat()
                    found += side.toFloat()
                }
            }
        }
    }
    return found.toFloatArray()
}

/** Reads the outputs of one model, by name; an output that it does not know is left alone. Immutable. */
class Head(private val description: Description, private val model: Model) {
    private val anchors = if (model.head == "raw") priors(description.contract, model.width, model.height) else null

    init {
        require(model.head in NAMES) { "${model.file}: a ${model.head} head; can read ${NAMES.keys.joinToString()}" }
    }

    /** Names of the outputs that [faces] needs. */
    val names: List<String> get() = NAMES.getValue(model.head)

    /** Faces in input pixels, best score first. */
    fun faces(outputs: Map<String, FloatArray>): List<Face> {
        val (first, second, third) = names.map { outputs[it] ?: error("${model.file}: gave no output $it") }
        val rows = anchors?.let { it.size / 4 } ?: second.size
        val scores = if (model.head == "raw") 2 * rows else rows
        check(first.size == 4 * rows && second.size == scores && third.size == 2 * model.landmarks * rows) {
            "${model.file}: ${first.size}, ${second.size} and ${third.size} values of $names, for $rows rows"
        }
        return when (model.head) {
            "raw" -> raw(first, second, third)
            "detections" -> {
                val count = outputs.getValue("count")[0].toInt()
                check(count in 0..rows) { "${model.file}: count is $count, and there is room for $rows faces" }
                List(count) { faceAt(it, second[it], first, third) }.filter { it.score >= description.scoreThreshold }
            }
            else -> select(second.size, { second[it] }) { faceAt(it, second[it], first, third) }
        }
    }

    private fun faceAt(i: Int, score: Float, boxes: FloatArray, landmarks: FloatArray): Face {
        val values = 2 * model.landmarks
        return Face(score, boxes.copyOfRange(4 * i, 4 * i + 4), landmarks.copyOfRange(values * i, values * (i + 1)))
    }

    private fun raw(loc: FloatArray, conf: FloatArray, landm: FloatArray): List<Face> {
        val prior = anchors!!
        val (ofCentre, ofSize) = description.contract.variances.map { it.toFloat() }
        return select(prior.size / 4, { conf[2 * it + 1] }) { i ->
            val p = 4 * i
            val x = prior[p] + loc[p] * ofCentre * prior[p + 2]
            val y = prior[p + 1] + loc[p + 1] * ofCentre * prior[p + 3]
            val halfWidth = prior[p + 2] * exp(loc[p + 2] * ofSize) / 2
            val halfHeight = prior[p + 3] * exp(loc[p + 3] * ofSize) / 2
            val values = 2 * model.landmarks
            val points = FloatArray(values) { k ->
                prior[p + k % 2] + landm[values * i + k] * ofCentre * prior[p + 2 + k % 2]
            }
            Face(conf[2 * i + 1], floatArrayOf(x - halfWidth, y - halfHeight, x + halfWidth, y + halfHeight), points)
        }
    }

    /** Threshold, then NMS; a face is only built where its score is high enough. */
    private fun select(count: Int, score: (Int) -> Float, face: (Int) -> Face): List<Face> {
        val threshold = description.scoreThreshold.toFloat()
        val candidates = (0 until count).filter { score(it) >= threshold }.map(face)
        return nms(candidates, description.nmsIou, description.saturatedScore.toFloat())
    }

    private companion object {
        val NAMES = mapOf(
            "decoded" to listOf("boxes", "scores", "landmarks"),
            "raw" to listOf("loc", "conf", "landm"),
            "detections" to listOf("boxes", "scores", "landmarks", "count"),
        )
    }
}

/** Intersection over union; 0 where either box is empty, inverted or not finite. */
fun iou(a: FloatArray, b: FloatArray): Double {
    fun side(low: Float, high: Float) = max(0.0, high.toDouble() - low.toDouble())
    val common = side(max(a[0], b[0]), min(a[2], b[2])) * side(max(a[1], b[1]), min(a[3], b[3]))
    val union = side(a[0], a[2]) * side(a[1], a[3]) + side(b[0], b[2]) * side(b[1], b[3]) - common
    val found = if (union > 0) common / union else 0.0
    return if (found.isFinite()) found else 0.0
}

/**
 * Greedy non-maximum suppression: the best score first, and boxes dropped that overlap a kept one by more than
 * [threshold]. Ties keep the earlier face, and all scores from [saturated] on are ties: there float32 tells scores too
 * little apart to say which box is the better.
 */
fun nms(faces: List<Face>, threshold: Double, saturated: Float): List<Face> {
    val kept = ArrayList<Face>()
    for (face in faces.sortedByDescending { min(it.score, saturated) }) {
        if (kept.none { iou(it.box, face.box) > threshold }) kept += face
    }
    return kept
}

// Goldens

/**
 * What was found against what must be found, worst differences over the [pairs] of an expected and a found face;
 * [complaints] says in words what is beyond the tolerances.
 */
class Verdict(
    val pairs: Int,
    val worstScore: Double,
    val worstBox: Double,
    val worstLandmark: Double,
    val lost: Int,
    val extra: Int,
    val complaints: List<String>,
) {
    val passed get() = complaints.isEmpty()
}

/** Holds faces in input pixels against those of a golden; distances are shares of the expected face's side. */
fun compare(expected: List<Face>, found: List<Face>, tolerances: Tolerances, scoreThreshold: Double): Verdict {
    val partner = pair(expected, found)
    val taken = partner.filterNotNull().toSet()
    val sure = scoreThreshold + tolerances.score
    val lost = expected.indices.filter { partner[it] == null && expected[it].score >= sure }
    val extra = found.indices.filter { it !in taken && !(found[it].score < sure) }
    val worst = DoubleArray(3)
    for ((e, f) in partner.withIndex()) {
        if (f == null) continue
        differences(expected[e], found[f]).forEachIndexed { i, value -> worst[i] = larger(worst[i], value) }
    }
    val complaints = ArrayList<String>()
    if (lost.isNotEmpty()) complaints += "${lost.size} of ${expected.size} faces lost"
    if (extra.isNotEmpty()) complaints += "${extra.size} faces that are not there"
    val limits = listOf("score" to tolerances.score, "box" to tolerances.box, "landmark" to tolerances.landmark)
    for ((i, limit) in limits.withIndex()) {
        // a value that is not finite is within no limit
        if (!(worst[i] <= limit.second)) complaints += "${limit.first} off by ${worst[i]}, allowed ${limit.second}"
    }
    return Verdict(taken.size, worst[0], worst[1], worst[2], lost.size, extra.size, complaints)
}

/** For every expected face the index of its own found face, or null: overlaps of 0.5 and more, the largest first. */
private fun pair(expected: List<Face>, found: List<Face>): Array<Int?> {
    val pairs = expected.indices.flatMap { e ->
        found.indices.map { f -> Triple(iou(expected[e].box, found[f].box), e, f) }
    }
    val partner = arrayOfNulls<Int>(expected.size)
    val taken = HashSet<Int>()
    // a stable sort: ties stay in the order of the expected, then of the found face
    for ((overlap, e, f) in pairs.sortedByDescending { it.first }) {
        if (overlap >= 0.5 && partner[e] == null && taken.add(f)) partner[e] = f
    }
    return partner
}

private fun differences(expected: Face, found: Face): DoubleArray {
    val box = expected.box.map { it.toDouble() }
    val side = sqrt((box[2] - box[0]) * (box[3] - box[1]))
    var corner = 0.0
    for (i in 0..3) corner = larger(corner, abs(found.box[i] - box[i]))
    var point = if (found.landmarks.size == expected.landmarks.size) 0.0 else Double.NaN
    for (i in 0 until min(found.landmarks.size, expected.landmarks.size) step 2) {
        val dx = found.landmarks[i].toDouble() - expected.landmarks[i]
        val dy = found.landmarks[i + 1].toDouble() - expected.landmarks[i + 1]
        point = larger(point, hypot(dx, dy))
    }
    return doubleArrayOf(abs(found.score.toDouble() - expected.score), corner / side, point / side)
}

/** The larger one; NaN where either is. */
private fun larger(a: Double, b: Double) = if (a.isNaN() || b.isNaN()) Double.NaN else max(a, b)

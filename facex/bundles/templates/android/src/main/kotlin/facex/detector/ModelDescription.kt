// facex.json as values, and the reader for it. Plain Kotlin without Android.
package facex.detector

/** Where the priors of a detector are and how its offsets are coded. */
class Contract(val strides: List<Int>, val minSizes: List<List<Double>>, val variances: List<Double>)

/** How far from a golden a model may be: of scores, and as shares of the side of a face. */
class Tolerances(val score: Double, val box: Double, val landmark: Double)

class Model(
    val file: String,
    val precision: String,
    val head: String,
    val width: Int,
    val height: Int,
    val landmarks: Int,
    val minimumRuntime: String,
    val tolerances: Tolerances,
)

/** A photograph as the model sees it, in [file], and the [faces] that must be found in it, in input pixels. */
class Golden(val file: String, val sourceWidth: Int, val sourceHeight: Int, val scale: Double, val faces: List<Face>)

class Description(
    val contract: Contract,
    val paddingRgb: IntArray,
    val scoreThreshold: Double,
    val nmsIou: Double,
    val saturatedScore: Double,
    val models: List<Model>,
    val goldens: List<Golden>,
) {
    /** The golden that comes with the models, for the choice of a delegate: the first of those with the most faces. */
    val choosing: Golden get() = goldens.maxBy { it.faces.size }

    companion object {
        private const val SCHEMA_VERSION = 1

        /** Reads the text of facex.json; throws [IllegalArgumentException] where it is not one of this version. */
        fun parse(text: String): Description {
            val root = Json(text).value() as? Map<*, *> ?: throw IllegalArgumentException("facex.json: no object")
            val version = root.int("schema_version")
            require(version == SCHEMA_VERSION) { "facex.json: version $version, this code reads $SCHEMA_VERSION" }
            val contract = root.map("contract")
            return Description(
                Contract(
                    contract.list("strides").map { (it as Double).toInt() },
                    contract.list("min_sizes").map { sides -> (sides as List<*>).map { it as Double } },
                    contract.doubles("variances"),
                ),
                root.list("padding_rgb").map { (it as Double).toInt() }.toIntArray(),
                root.double("score_threshold"),
                root.double("nms_iou"),
                root.double("saturated_score"),
                root.list("models").map { model(it as Map<*, *>) },
                root.map("goldens").list("photographs").map { golden(it as Map<*, *>) },
            )
        }

        private fun model(entry: Map<*, *>): Model {
            val off = entry.map("tolerances")
            return Model(
                entry.string("file"),
                entry.string("precision"),
                entry.string("head"),
                entry.int("width"),
                entry.int("height"),
                entry.int("landmarks"),
                entry.string("minimum_runtime"),
                Tolerances(off.double("score"), off.double("box"), off.double("landmark")),
            )
        }

        private fun golden(entry: Map<*, *>) = Golden(
            entry.string("file"),
            entry.int("source_width"),
            entry.int("source_height"),
            entry.double("scale"),
            entry.list("faces").map {
                val face = it as Map<*, *>
                Face(face.double("score").toFloat(), face.floats("box"), face.floats("landmarks"))
            },
        )

        private inline fun <reified T> Map<*, *>.get(name: String): T =
            this[name] as? T ?: throw IllegalArgumentException("facex.json: $name is ${this[name]}")

        private fun Map<*, *>.map(name: String) = get<Map<*, *>>(name)
        private fun Map<*, *>.list(name: String) = get<List<*>>(name)
        private fun Map<*, *>.string(name: String) = get<String>(name)
        private fun Map<*, *>.double(name: String) = get<Double>(name)
        private fun Map<*, *>.int(name: String) = double(name).toInt()
        private fun Map<*, *>.doubles(name: String) = list(name).map { it as Double }
        private fun Map<*, *>.floats(name: String) = doubles(name).map { it.toFloat() }.toFloatArray()
    }
}

/** A JSON text as maps, lists, strings, doubles, booleans and null. */
internal class Json(private val text: String) {
    private var at = 0

    /** The value that the whole text is. */
    fun value(): Any? {
        val found = next()
        space()
        if (at < text.length) fail("the end")
        return found
    }

    private fun next(): Any? {
        space()
        return when (peek()) {
            '{' -> members()
            '[' -> sequence(']') { next() }
            '"' -> string()
            't' -> word("true", true)
            'f' -> word("false", false)
            'n' -> word("null", null)
            else -> number()
        }
    }

    private fun members(): Map<String, Any?> {
        val pairs = sequence('}') {
            space()
            val name = string()
            space()
            expect(':')
            name to next()
        }
        return pairs.toMap()
    }

    /** What stands between the bracket that comes next and [close], separated by commas. */
    private fun <T> sequence(close: Char, item: () -> T): List<T> {
        at++
        val found = ArrayList<T>()
        space()
        if (peek() == close) {
            at++
            return found
        }
        while (true) {
            found += item()
            space()
            if (peek() == close) break
            expect(',')
        }
        at++
        return found
    }

    private fun string(): String {
        expect('"')
        val found = StringBuilder()
        while (peek() != '"') {
            val character = text[at++]
            if (character != '\\') {
                found.append(character)
                continue
            }
            when (val escaped = peek().also { at++ }) {
                'n' -> found.append('\n')
                't' -> found.append('\t')
                'r' -> found.append('\r')
                'b' -> found.append('\b')
                'f' -> found.append('\u000c')
                'u' -> {
                    if (at + 4 > text.length) fail("four hexadecimal digits")
                    found.append(text.substring(at, at + 4).toInt(16).toChar())
                    at += 4
                }
                else -> found.append(escaped)
            }
        }
        at++
        return found.toString()
    }

    private fun number(): Double {
        val start = at
        while (at < text.length && (text[at].isLetterOrDigit() || text[at] in "+-.")) at++
        return text.substring(start, at).toDoubleOrNull()?.takeIf { it.isFinite() } ?: fail("a value")
    }

    private fun <T> word(name: String, meaning: T): T {
        if (!text.startsWith(name, at)) fail(name)
        at += name.length
        return meaning
    }

    private fun space() {
        while (at < text.length && text[at] in " \t\r\n") at++
    }

    private fun peek(): Char = if (at < text.length) text[at] else fail("more")

    private fun expect(character: Char) {
        if (peek() != character) fail("$character")
        at++
    }

    private fun fail(wanted: String): Nothing =
        throw IllegalArgumentException("facex.json: no $wanted at character $at")
}

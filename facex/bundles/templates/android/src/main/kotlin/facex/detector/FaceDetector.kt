// The detector on Android: LiteRT around FaceGeometry.kt and FacePixels.kt.
package facex.detector

import android.content.Context
import android.content.res.AssetManager
import android.graphics.Bitmap
import android.graphics.BitmapFactory
import android.graphics.ImageFormat
import android.graphics.Rect
import android.media.Image
import android.os.Build
import java.io.FileInputStream
import java.io.FileNotFoundException
import java.nio.ByteBuffer
import java.nio.ByteOrder
import java.nio.channels.FileChannel
import java.util.concurrent.Callable
import java.util.concurrent.ExecutionException
import java.util.concurrent.ExecutorService
import java.util.concurrent.Executors
import java.util.concurrent.RejectedExecutionException
import org.tensorflow.lite.DataType
import org.tensorflow.lite.Interpreter
import org.tensorflow.lite.gpu.CompatibilityList
import org.tensorflow.lite.gpu.GpuDelegate

/**
 * Finds faces. Open one with [open], keep it, [close] it.
 *
 * May be called from any thread: everything runs on one thread of the detector's own, since a GPU delegate must stay on
 * the thread that made it, and calls wait for one another and for their result. Do not call it from the main thread.
 *
 * Faces are in pixels of the whole upright picture, as ML Kit gives them, best score first and not clamped to it;
 * [Frame.toBuffer] maps them to the buffer as it lies in memory.
 */
class FaceDetector private constructor(
    private val worker: ExecutorService,
    private val runner: Runner,
    /** What was tried, in order; the last one runs. */
    val attempts: List<Attempt>,
) : AutoCloseable {

    /** What runs the model: XNNPACK on the processor, or the GPU. */
    enum class Delegate { CPU, GPU }

    /** How a delegate did on the golden: [verdict], or the [failure] that kept it from giving one. */
    class Attempt(val delegate: Delegate, val verdict: Verdict?, val failure: Throwable?) {
        val passed get() = verdict != null && verdict.passed && verdict.pairs > 0

        override fun toString() = "$delegate: ${failure ?: verdict?.complaints?.ifEmpty { "passed" }}"
    }

    /** The model that runs. */
    val model: Model get() = runner.model

    /** What runs it. */
    val delegate: Delegate get() = attempts.last().delegate

    /** Whether the delegate that runs finds the faces of the golden; where not, neither did any other. */
    val verified: Boolean get() = attempts.last().passed

    /**
     * Faces of a bitmap; alpha is ignored.
     *
     * @param rotationDegrees clockwise turn that makes it upright: 0, 90, 180 or 270
     * @param crop the only part that is looked at, in pixels of the bitmap; faces still count from the whole picture
     */
    @JvmOverloads
    fun detect(bitmap: Bitmap, rotationDegrees: Int = 0, crop: Rect? = null): List<Face> {
        val frame = frame(bitmap.width, bitmap.height, rotationDegrees, crop)
        return onWorker { runner.detect(BitmapRows(readable(bitmap), frame.crop), frame) }
    }

    /** Faces of a YUV_420_888 image of camera2 or CameraX, which must stay open until this returns. */
    @JvmOverloads
    fun detect(image: Image, rotationDegrees: Int, crop: Rect? = null): List<Face> {
        require(image.format == ImageFormat.YUV_420_888) { "image format is ${image.format}, not YUV_420_888" }
        return detect(image.planes, image.width, image.height, rotationDegrees, crop)
    }

    /** Faces of YUV_420_888 planes: `detect(input.planes!!, input.width, input.height, input.rotationDegrees)`. */
    @JvmOverloads
    fun detect(
        planes: Array<Image.Plane>,
        width: Int,
        height: Int,
        rotationDegrees: Int,
        crop: Rect? = null,
    ): List<Face> {
        require(planes.size == 3) { "${planes.size} planes, not the three of YUV_420_888" }
        val frame = frame(width, height, rotationDegrees, crop)
        val (y, u, v) = planes.map { Plane(it.buffer, it.rowStride, it.pixelStride) }
        return onWorker { runner.detect(YuvRows(y, u, v, frame.crop), frame) }
    }

    /** Faces of NV21 or YV12 bytes without padding; arguments as those of ML Kit's `InputImage.fromByteBuffer`. */
    fun detect(buffer: ByteBuffer, width: Int, height: Int, rotationDegrees: Int, format: Int): List<Face> {
        val frame = frame(width, height, rotationDegrees, null)
        val rows = when (format) {
            ImageFormat.NV21 -> YuvRows.nv21(buffer, width, height, frame.crop)
            ImageFormat.YV12 -> YuvRows.yv12(buffer, width, height, frame.crop)
            else -> throw IllegalArgumentException("format is $format, neither NV21 nor YV12")
        }
        return onWorker { runner.detect(rows, frame) }
    }

    /** Holds what is found in a golden's own pixels against its faces. */
    internal fun replay(golden: Golden, pixels: Bitmap): Verdict = onWorker { runner.replay(golden, pixels) }

    /** Frees the model after the calls that wait; later ones throw [IllegalStateException]. May be called twice. */
    @Synchronized
    override fun close() {
        if (worker.isShutdown) return
        worker.execute { runner.close() }
        worker.shutdown()
    }

    private fun <T> onWorker(work: () -> T): T = try {
        run(worker, work)
    } catch (error: RejectedExecutionException) {
        throw IllegalStateException("the detector is closed", error)
    }

    companion object {
        private const val FOLDER = "facex"

        /**
         * Loads a model of this module's assets and chooses what runs it.
         *
         * The preferred delegate must find the faces of one golden, within the model's tolerances; where it throws
         * or finds others, the CPU takes over, and [attempts] says why. Takes up to seconds with a GPU.
         *
         * @param file name of a model in facex.json; by default the first one
         * @param preferred by default the CPU for 8-bit models, which run on integers there alone, and else the GPU
         * @param threads of the CPU
         */
        @JvmStatic
        @JvmOverloads
        fun open(context: Context, file: String? = null, preferred: Delegate? = null, threads: Int = 4): FaceDetector {
            val assets = context.assets
            val description = description(assets)
            val model = description.models.find { file == null || it.file == file }
                ?: throw IllegalArgumentException("no $file; has ${description.models.joinToString { it.file }}")
            val golden = description.choosing
            val first = preferred ?: if (model.precision == "w8a8") Delegate.CPU else Delegate.GPU
            val worker = Executors.newSingleThreadExecutor { Thread(it, "facex").apply { isDaemon = true } }
            try {
                return run(worker) {
                    val pixels = picture(assets, golden)
                    val attempts = ArrayList<Attempt>()
                    if (first == Delegate.GPU) {
                        val runner = attempt(assets, description, model, threads, first, golden, pixels, attempts)
                        if (runner != null && attempts.last().passed) return@run FaceDetector(worker, runner, attempts)
                        runner?.close()
                    }
                    val runner = attempt(assets, description, model, threads, Delegate.CPU, golden, pixels, attempts)
                        ?: throw IllegalStateException("${model.file} cannot run: $attempts", attempts.last().failure)
                    FaceDetector(worker, runner, attempts)
                }
            } catch (error: Throwable) {
                worker.shutdown()
                throw error
            }
        }

        internal fun description(assets: AssetManager): Description =
            Description.parse(assets.open("$FOLDER/facex.json").use { it.readBytes().decodeToString() })

        /** The very pixels of a golden that is among the assets. */
        internal fun picture(assets: AssetManager, golden: Golden, folder: String = FOLDER): Bitmap {
            val options = BitmapFactory.Options().apply { inScaled = false }
            return assets.open("$folder/${golden.file}").use { BitmapFactory.decodeStream(it, null, options) }
                ?: throw IllegalStateException("$folder/${golden.file} is no picture")
        }

        /** A runner with what it found in the golden among the attempts, or null where it could not run. */
        private fun attempt(
            assets: AssetManager,
            description: Description,
            model: Model,
            threads: Int,
            delegate: Delegate,
            golden: Golden,
            pixels: Bitmap,
            attempts: MutableList<Attempt>,
        ): Runner? {
            var runner: Runner? = null
            // a missing native library is an error, not an exception
            try {
                runner = Runner(mapped(assets, "$FOLDER/${model.file}"), description, model, delegate, threads)
                attempts += Attempt(delegate, runner.replay(golden, pixels), null)
                return runner
            } catch (error: Exception) {
                attempts += Attempt(delegate, null, error)
            } catch (error: LinkageError) {
                attempts += Attempt(delegate, null, error)
            }
            runner?.close()
            return null
        }

        private fun mapped(assets: AssetManager, path: String): ByteBuffer = try {
            assets.openFd(path).use { file ->
                FileInputStream(file.fileDescriptor).use {
                    it.channel.map(FileChannel.MapMode.READ_ONLY, file.startOffset, file.declaredLength)
                }
            }
        } catch (compressed: FileNotFoundException) {
            // there is nothing to map in an APK that compresses it
            val bytes = assets.open(path).use { it.readBytes() }
            ByteBuffer.allocateDirect(bytes.size).order(ByteOrder.nativeOrder()).apply { put(bytes).rewind() }
        }

        /** Waits even when interrupted, and says so afterwards: the work still reads buffers of the caller. */
        private fun <T> run(worker: ExecutorService, work: () -> T): T {
            val result = worker.submit(Callable { work() })
            var interrupted = false
            try {
                while (true) {
                    try {
                        return result.get()
                    } catch (early: InterruptedException) {
                        interrupted = true
                    } catch (error: ExecutionException) {
                        throw error.cause ?: error
                    }
                }
            } finally {
                if (interrupted) Thread.currentThread().interrupt()
            }
        }

        private fun frame(width: Int, height: Int, rotationDegrees: Int, crop: Rect?): Frame = if (crop == null) {
            Frame(width, height, rotationDegrees)
        } else {
            Frame(width, height, rotationDegrees, Crop(crop.left, crop.top, crop.width(), crop.height()))
        }

        private fun readable(bitmap: Bitmap): Bitmap {
            val inGpu = Build.VERSION.SDK_INT >= Build.VERSION_CODES.O && bitmap.config == Bitmap.Config.HARDWARE
            return if (inGpu) bitmap.copy(Bitmap.Config.ARGB_8888, false) else bitmap
        }
    }
}

private class BitmapRows(private val bitmap: Bitmap, private val crop: Crop) : Rows {
    override val width get() = crop.width
    override val height get() = crop.height

    override fun read(y: Int, rgb: IntArray) =
        bitmap.getPixels(rgb, 0, crop.width, crop.left, crop.top + y, crop.width, 1)
}

/** An interpreter with its buffers, reused from call to call; made, used and closed on one thread. */
private class Runner(
    file: ByteBuffer,
    private val description: Description,
    val model: Model,
    delegate: FaceDetector.Delegate,
    threads: Int,
) : AutoCloseable {
    private val head = Head(description, model)
    private val letterboxer = Letterboxer(model.width, model.height, description.paddingRgb)
    private val input = direct(model.width * model.height * 3)
    private val outputs = HashMap<Int, Output>()
    private val gpu: GpuDelegate? = if (delegate == FaceDetector.Delegate.GPU) gpu() else null
    private val interpreter: Interpreter

    private class Output(val name: String, val isInteger: Boolean, val buffer: ByteBuffer)

    init {
        val options = Interpreter.Options()
        if (gpu == null) options.setNumThreads(threads).setUseXNNPACK(true) else options.addDelegate(gpu)
        interpreter = try {
            Interpreter(file, options)
        } catch (error: Throwable) {
            gpu?.close()
            throw error
        }
        try {
            checkInput()
            for (i in 0 until interpreter.outputTensorCount) {
                val tensor = interpreter.getOutputTensor(i)
                if (tensor.name() in head.names) {
                    outputs[i] = Output(tensor.name(), tensor.dataType() == DataType.INT32, direct(tensor.numBytes()))
                }
            }
        } catch (error: Throwable) {
            close()
            throw error
        }
    }

    private fun checkInput() {
        val tensor = interpreter.getInputTensor(0)
        val shape = tensor.shape().toList()
        check(tensor.dataType() == DataType.UINT8 && shape == listOf(1, model.height, model.width, 3)) {
            "${model.file} takes ${tensor.dataType()} $shape, facex.json says uint8 ${model.height}x${model.width}"
        }
    }

    fun detect(rows: Rows, frame: Frame): List<Face> {
        val letterbox = letterboxer.fill(rows, frame, input)
        return infer().map { toUpright(it, letterbox, frame) }
    }

    fun replay(golden: Golden, pixels: Bitmap): Verdict {
        check(pixels.width == model.width && pixels.height == model.height) {
            "${golden.file} is ${pixels.width}x${pixels.height}, the model takes ${model.width}x${model.height}"
        }
        val frame = Frame(pixels.width, pixels.height)
        letterboxer.fill(BitmapRows(pixels, frame.crop), frame, input)
        return compare(golden.faces, infer(), model.tolerances, description.scoreThreshold)
    }

    /** Faces in input pixels. */
    private fun infer(): List<Face> {
        input.rewind()
        val buffers = HashMap<Int, Any>()
        for ((index, output) in outputs) buffers[index] = output.buffer.apply { rewind() }
        interpreter.runForMultipleInputsOutputs(arrayOf<Any>(input), buffers)
        return head.faces(outputs.values.associate { it.name to values(it) })
    }

    private fun values(output: Output): FloatArray {
        output.buffer.rewind()
        if (!output.isInteger) {
            val floats = output.buffer.asFloatBuffer()
            return FloatArray(floats.remaining()).also { floats.get(it) }
        }
        val integers = output.buffer.asIntBuffer()
        return FloatArray(integers.remaining()) { integers.get(it).toFloat() }
    }

    override fun close() {
        interpreter.close()
        gpu?.close()
    }

    private companion object {
        fun direct(bytes: Int): ByteBuffer = ByteBuffer.allocateDirect(bytes).order(ByteOrder.nativeOrder())

        fun gpu(): GpuDelegate = CompatibilityList().use { known ->
            check(known.isDelegateSupportedOnThisDevice) { "LiteRT does not support the GPU of this device" }
            GpuDelegate(known.bestOptionsForThisDevice)
        }
    }
}

package facex.detector

import android.graphics.Bitmap
import android.graphics.Matrix
import android.util.Log
import androidx.test.ext.junit.runners.AndroidJUnit4
import androidx.test.platform.app.InstrumentationRegistry
import org.junit.Assert.assertEquals
import org.junit.Assert.assertTrue
import org.junit.Assume.assumeTrue
import org.junit.Test
import org.junit.runner.RunWith

/** Replays the goldens of facex.json on this device, with every model and every delegate. */
@RunWith(AndroidJUnit4::class)
class GoldenTest {
    private val instrumentation = InstrumentationRegistry.getInstrumentation()
    private val context = instrumentation.targetContext
    private val description = FaceDetector.description(context.assets)

    private fun picture(golden: Golden) = FaceDetector.picture(instrumentation.context.assets, golden, "facex_goldens")

    private fun complaints(detector: FaceDetector, changed: (Bitmap) -> Bitmap = { it }): List<String> =
        description.goldens.flatMap { golden ->
            val verdict = detector.replay(golden, changed(picture(golden)))
            Log.i("facex", "${detector.model.file} ${detector.delegate} ${golden.file}: score ${verdict.worstScore}, " +
                "box ${verdict.worstBox}, landmark ${verdict.worstLandmark}")
            verdict.complaints.map { "${detector.model.file} ${detector.delegate} ${golden.file}: $it" }
        }

    @Test
    fun theCpuFindsTheFacesOfTheGoldens() {
        for (model in description.models) {
            FaceDetector.open(context, model.file, FaceDetector.Delegate.CPU).use { detector ->
                assertTrue(detector.attempts.toString(), detector.verified)
                assertEquals(emptyList<String>(), complaints(detector))
            }
        }
    }

    /** A GPU that fails on the golden that decides is not chosen; one that is chosen must find the faces of all. */
    @Test
    fun theGpuFindsTheFacesOfTheGoldensWhereItIsChosen() {
        for (model in description.models) {
            FaceDetector.open(context, model.file, FaceDetector.Delegate.GPU).use { detector ->
                Log.i("facex", "${model.file}: ${detector.attempts}")
                assumeTrue(detector.attempts.toString(), detector.delegate == FaceDetector.Delegate.GPU)
                assertEquals(emptyList<String>(), complaints(detector))
            }
        }
    }

    /** The goldens would notice a model that is fed BGR. */
    @Test
    fun swappedChannelsAreNoticed() {
        for (model in description.models) {
            FaceDetector.open(context, model.file, FaceDetector.Delegate.CPU).use { detector ->
                assertTrue(model.file, complaints(detector, ::swapped).isNotEmpty())
            }
        }
    }

    @Test
    fun aTurnedBitmapGivesTheSameFaces() {
        val upright = description.goldens.map(::picture)
        FaceDetector.open(context, preferred = FaceDetector.Delegate.CPU).use { detector ->
            for ((golden, bitmap) in description.goldens.zip(upright)) {
                for (degrees in listOf(90, 180, 270)) {
                    val back = Matrix().apply { postRotate(360f - degrees) }
                    val turned = Bitmap.createBitmap(bitmap, 0, 0, bitmap.width, bitmap.height, back, false)
                    val verdict = compare(
                        detector.detect(bitmap), detector.detect(turned, degrees), Tolerances(0.02, 0.02, 0.02),
                        description.scoreThreshold,
                    )
                    assertEquals("${golden.file} at $degrees", emptyList<String>(), verdict.complaints)
                }
            }
        }
    }

    private fun swapped(bitmap: Bitmap): Bitmap {
        val pixels = IntArray(bitmap.width * bitmap.height)
        bitmap.getPixels(pixels, 0, bitmap.width, 0, 0, bitmap.width, bitmap.height)
        for (i in pixels.indices) {
            val p = pixels[i]
            pixels[i] = (p and 0xff00ff00.toInt()) or (p shr 16 and 255) or (p and 255 shl 16)
        }
        return Bitmap.createBitmap(pixels, bitmap.width, bitmap.height, Bitmap.Config.ARGB_8888)
    }
}

// NOT COMPILED AND NOT RUN where it was written: take it as a start, and check it with golden.json.
//
// Needs implementation("org.pytorch:executorch-android:1.5.1"), and {{MODEL}} among the assets.

import android.content.Context
import java.io.File
import org.pytorch.executorch.EValue
import org.pytorch.executorch.Module
import org.pytorch.executorch.Tensor

/** The network: floats in, floats out. ExecuTorch opens files only, so the asset is copied to one. */
class Network(context: Context) {
    private val file = File(context.filesDir, "{{MODEL}}").also { copy ->
        context.assets.open("{{MODEL}}").use { asset -> copy.outputStream().use { asset.copyTo(it) } }
    }
    private val module = Module.load(file.path)

    fun run(image: FloatArray): FloatArray {
        val input = Tensor.fromBlob(image, longArrayOf(1, 3, {{HEIGHT}}, {{WIDTH}}))
        return module.forward(EValue.from(input))[0].toTensor().dataAsFloatArray
    }
}

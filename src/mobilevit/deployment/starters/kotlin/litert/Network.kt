// NOT COMPILED AND NOT RUN where it was written: take it as a start, and check it with golden.json.
//
// Needs implementation("com.google.ai.edge.litert:litert:2.3.0"), and {{MODEL}} among the assets.

import android.content.Context
import com.google.ai.edge.litert.Accelerator
import com.google.ai.edge.litert.CompiledModel

/** The network: floats in, floats out. */
class Network(context: Context) : AutoCloseable {
    private val model =
        CompiledModel.create(context.assets, "{{MODEL}}", CompiledModel.Options(Accelerator.CPU), null)
    private val inputs = model.createInputBuffers()
    private val outputs = model.createOutputBuffers()

    fun run(image: FloatArray): FloatArray {
        inputs[0].writeFloat(image)
        model.run(inputs, outputs)
        return outputs[0].readFloat()
    }

    override fun close() = model.close()
}

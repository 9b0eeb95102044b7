// NOT COMPILED AND NOT RUN where it was written: take it as a start, and check it with golden.json.
//
// {{MODEL}}, for {{TASK}}. {{INPUT}}.

import android.graphics.Bitmap
import android.graphics.RectF
import kotlin.math.abs
import kotlin.math.exp
import kotlin.math.floor
import kotlin.math.max
import kotlin.math.min
import kotlin.math.round

private const val HEIGHT = {{HEIGHT}}
private const val WIDTH = {{WIDTH}}
private const val RESIZE = {{RESIZE}} // length of the shorter side before the crop; 0: no crop
private const val BICUBIC = {{BICUBIC}} // else bilinear
private const val CHANNELS_LAST = {{NHWC}}
private const val OUTPUT = "{{OUTPUT}}"
private val SHAPE = intArrayOf({{SHAPE}}) // of the output
private val NAMES = listOf({{KOTLIN_NAMES}})
private val IDS = listOf({{IDS}})

private const val TOP = 5 // labels that are told of a picture
private const val SURE = 0.3f // score from which on a box is told
private const val OVERLAP = 0.5f // with a better box of its class, above which a box is dropped
private const val CANDIDATES = 1000 // pairs of anchor and class that are chosen among
private const val BOXES = 200 // of a picture, at most

/** A label and its probability; a box in pixels and its score; a class and its share of pixels. */
data class Answer(val name: String, val id: Int, val share: Float, val box: RectF? = null)

/**
 * Says what is on a picture. It must be upright (ImageDecoder turns it, BitmapFactory does not) and
 * its pixels readable (ImageDecoder.ALLOCATOR_SOFTWARE).
 */
fun predict(picture: Bitmap, network: Network): List<Answer> {
    val output = network.run(preprocess(picture))
    return when (OUTPUT) {
        "logits" -> readLogits(output)
        "detections" -> readBoxes(rows(output), picture.width, picture.height)
        "candidates" -> readBoxes(choose(rows(output)), picture.width, picture.height)
        else -> countPixels(likeliest(output, picture.width, picture.height))
    }
}

/** Returns the network's input, in [0, 1]. */
fun preprocess(picture: Bitmap): FloatArray {
    val (width, height) = picture.width to picture.height
    val packed = IntArray(width * height)
    picture.getPixels(packed, 0, width, 0, 0, width, height)
    val pixels = FloatArray(3 * packed.size) { (packed[it / 3] shr (16 - 8 * (it % 3)) and 0xff).toFloat() }
    val (left, top, right, bottom) = crop(width, height)
    val across = taps(width, left, right, WIDTH, BICUBIC).map(::rounded)
    val down = taps(height, top, bottom, HEIGHT, BICUBIC).map(::rounded)
    val narrow = pass(pixels, height, width, 3, across, ::toByte)
    val small = pass(narrow, 1, height, 3 * WIDTH, down, ::toByte) // (HEIGHT, WIDTH, 3)
    if (CHANNELS_LAST) return FloatArray(small.size) { small[it] / 255 }
    val plane = HEIGHT * WIDTH
    return FloatArray(small.size) { small[it % plane * 3 + it / plane] / 255 }
}

/** Returns which part of a picture the network sees: left, top, right and bottom. */
private fun crop(width: Int, height: Int): List<Double> {
    if (RESIZE == 0) return listOf(0.0, 0.0, width.toDouble(), height.toDouble())
    val scale = maxOf(RESIZE.toDouble() / min(width, height), WIDTH.toDouble() / width, HEIGHT.toDouble() / height)
    val left = max((width - WIDTH / scale) / 2, 0.0)
    val top = max((height - HEIGHT / scale) / 2, 0.0)
    return listOf(left, top, min(left + WIDTH / scale, width.toDouble()), min(top + HEIGHT / scale, height.toDouble()))
}

/** The first pixel that another is made of, and the weights of that and the next ones. */
private class Tap(val first: Int, val weights: DoubleArray)

/**
 * Returns what each of [count] pixels is made of, which the part from [start] to [end] of a line of
 * [length] becomes. The kernel is widened where the line shrinks (antialiasing), as Pillow does it.
 */
private fun taps(length: Int, start: Double, end: Double, count: Int, bicubic: Boolean): List<Tap> {
    val from = start.toFloat()
    val scale = (end.toFloat() - from).toDouble() / count
    val stretch = max(scale, 1.0)
    val support = (if (bicubic) 2 else 1) * stretch
    return List(count) { i ->
        val centre = from + (i + 0.5) * scale
        val first = max(0, (centre - support + 0.5).toInt())
        val last = min(length, (centre + support + 0.5).toInt())
        val weights = DoubleArray(last - first) { kernel((first + it - centre + 0.5) / stretch, bicubic) }
        val sum = weights.sum()
        Tap(first, DoubleArray(weights.size) { weights[it] / sum })
    }
}

private fun kernel(offset: Double, bicubic: Boolean): Double {
    val x = abs(offset)
    return when {
        !bicubic -> max(0.0, 1 - x)
        x < 1 -> (1.5 * x - 2.5) * x * x + 1
        x < 2 -> ((-0.5 * x + 2.5) * x - 4) * x + 2
        else -> 0.0
    }
}

/** Pillow's weights for 8 bit: multiples of 1 / 2^22. */
private fun rounded(tap: Tap) = Tap(tap.first, DoubleArray(tap.weights.size) { round(tap.weights[it] * (1 shl 22)) / (1 shl 22) })

private fun toByte(value: Double) = floor(value + 0.5).coerceIn(0.0, 255.0)

/** Resizes the middle axis of (outer, length, inner) to as many as there are taps. */
private fun pass(
    data: FloatArray, outer: Int, length: Int, inner: Int, taps: List<Tap>, finish: (Double) -> Double = { it },
): FloatArray {
    val made = FloatArray(outer * taps.size * inner)
    var at = 0
    for (o in 0 until outer) for (tap in taps) for (i in 0 until inner) {
        var sum = 0.0
        for (j in tap.weights.indices) sum += tap.weights[j] * data[(o * length + tap.first + j) * inner + i]
        made[at++] = finish(sum).toFloat()
    }
    return made
}

private fun readLogits(logits: FloatArray): List<Answer> {
    val highest = logits.max()
    val exponents = logits.map { exp((it - highest).toDouble()) }
    val sum = exponents.sum()
    return exponents.indices.sortedByDescending { exponents[it] }.take(TOP)
        .map { Answer(NAMES[it], IDS[it], (exponents[it] / sum).toFloat()) }
}

private fun rows(output: FloatArray) = output.toList().chunked(SHAPE[2])

/** Returns detections, rows of 6, of candidates, rows of 4 + K: class-wise non-maximum suppression. */
private fun choose(candidates: List<List<Float>>): List<List<Float>> {
    val pairs = candidates.flatMap { row ->
        (4 until row.size).filter { row[it] >= SURE }.map { row.take(4) + row[it] + (it - 4).toFloat() }
    }
    val kept = mutableListOf<List<Float>>()
    for (pair in pairs.sortedByDescending { it[4] }.take(CANDIDATES)) {
        if (kept.all { it[5] != pair[5] || overlap(it, pair) <= OVERLAP }) kept += pair
    }
    return kept.take(BOXES)
}

private fun overlap(a: List<Float>, b: List<Float>): Float {
    val width = max(0f, min(a[2], b[2]) - max(a[0], b[0]))
    val height = max(0f, min(a[3], b[3]) - max(a[1], b[1]))
    fun area(box: List<Float>) = (box[2] - box[0]) * (box[3] - box[1])
    return width * height / max(area(a) + area(b) - width * height, 1e-12f)
}

private fun readBoxes(detections: List<List<Float>>, width: Int, height: Int) =
    detections.filter { it[4] >= SURE }.map {
        val index = it[5].toInt()
        Answer(NAMES[index], IDS[index], it[4], RectF(it[0] * width, it[1] * height, it[2] * width, it[3] * height))
    }

/** Returns the index of the most probable class of every pixel of the picture. */
fun likeliest(logits: FloatArray, width: Int, height: Int): IntArray {
    val (_, classes, h, w) = SHAPE
    val across = taps(w, 0.0, w.toDouble(), width, false)
    val down = taps(h, 0.0, h.toDouble(), height, false)
    val mask = IntArray(width * height)
    for (y in 0 until height) {
        val row = pass(pass(logits, classes, h, w, listOf(down[y])), classes, w, 1, across)
        for (x in 0 until width) mask[y * width + x] = (0 until classes).maxBy { row[it * width + x] }
    }
    return mask
}

private fun countPixels(mask: IntArray): List<Answer> {
    val pixels = IntArray(NAMES.size)
    for (index in mask) pixels[index]++
    return pixels.indices.filter { pixels[it] > 0 }.sortedByDescending { pixels[it] }
        .map { Answer(NAMES[it], IDS[it], pixels[it].toFloat() / mask.size) }
}

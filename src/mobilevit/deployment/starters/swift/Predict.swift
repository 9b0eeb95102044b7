// NOT COMPILED AND NOT RUN where it was written: take it as a start, and check it with golden.json.
//
// {{MODEL}}, for {{TASK}}. {{INPUT}}.

import CoreGraphics
import CoreML
import CoreVideo
import Foundation

private let height = {{HEIGHT}}
private let width = {{WIDTH}}
private let resize = {{RESIZE}}  // length of the shorter side before the crop; 0: no crop
private let bicubic = {{BICUBIC}}  // else bilinear
private let output = "{{OUTPUT}}"
private let shape = [{{SHAPE}}]  // of the output
private let names = [{{SWIFT_NAMES}}]
private let ids = [{{IDS}}]

private let top = 5  // labels that are told of a picture
private let sure: Float = 0.3  // score from which on a box is told
private let allowed: Float = 0.5  // overlap with a better box of its class; beyond, a box is dropped
private let candidates = 1000  // pairs of anchor and class that are chosen among
private let boxes = 200  // of a picture, at most

/// A label and its probability; a box in pixels and its score; a class and its share of pixels.
struct Answer {
    let name: String
    let id: Int
    let share: Float
    var box: CGRect? = nil
}

/// Opens the model, of which Xcode has put the compiled form, `.mlmodelc`, into the bundle.
func loadModel() throws -> MLModel {
    let url = Bundle.main.url(forResource: "model", withExtension: "mlmodelc")!
    return try MLModel(contentsOf: url)
}

/// Says what is on an upright picture.
func predict(_ picture: CGImage, with model: MLModel) throws -> [Answer] {
    let image = MLFeatureValue(pixelBuffer: try pixelBuffer(preprocess(picture)))
    let input = try MLDictionaryFeatureProvider(dictionary: ["image": image])
    let found = try model.prediction(from: input).featureValue(for: output)!.multiArrayValue!
    let numbers = MLShapedArray<Float>(found).scalars
    switch output {
    case "logits": return readLogits(numbers)
    case "detections": return readBoxes(rows(numbers), picture.width, picture.height)
    case "candidates": return readBoxes(choose(rows(numbers)), picture.width, picture.height)
    default: return countPixels(likeliest(numbers, picture.width, picture.height))
    }
}

/// Returns the network's input (height, width, RGB), from 0 to 255; the model divides by 255.
func preprocess(_ picture: CGImage) -> [Float] {
    let (w, h) = (picture.width, picture.height)
    var bytes = [UInt8](repeating: 255, count: 4 * w * h)
    bytes.withUnsafeMutableBytes { memory in
        // In the picture's own colour space its numbers are not converted.
        let own = picture.colorSpace.flatMap { $0.model == .rgb ? $0 : nil }
        let space = own ?? CGColorSpace(name: CGColorSpace.sRGB)!
        let context = CGContext(
            data: memory.baseAddress, width: w, height: h, bitsPerComponent: 8, bytesPerRow: 4 * w,
            space: space, bitmapInfo: CGImageAlphaInfo.noneSkipLast.rawValue)!
        context.draw(picture, in: CGRect(x: 0, y: 0, width: w, height: h))
    }
    let pixels = (0..<3 * w * h).map { Float(bytes[$0 / 3 * 4 + $0 % 3]) }
    let part = crop(w, h)
    let across = taps(w, part.left, part.right, width, bicubic).map(rounded)
    let down = taps(h, part.top, part.bottom, height, bicubic).map(rounded)
    let narrow = pass(pixels, h, w, 3, across, toByte)
    return pass(narrow, 1, h, 3 * width, down, toByte)
}

private func pixelBuffer(_ pixels: [Float]) throws -> CVPixelBuffer {
    var made: CVPixelBuffer?
    CVPixelBufferCreate(nil, width, height, kCVPixelFormatType_32BGRA, nil, &made)
    let buffer = made!
    CVPixelBufferLockBaseAddress(buffer, [])
    defer { CVPixelBufferUnlockBaseAddress(buffer, []) }
    let bytes = CVPixelBufferGetBaseAddress(buffer)!.assumingMemoryBound(to: UInt8.self)
    let stride = CVPixelBufferGetBytesPerRow(buffer)
    for y in 0..<height {
        for x in 0..<width {
            for c in 0..<3 {
                bytes[y * stride + 4 * x + 2 - c] = UInt8(pixels[3 * (y * width + x) + c])
            }
            bytes[y * stride + 4 * x + 3] = 255
        }
    }
    return buffer
}

/// Returns which part of a picture the network sees.
private func crop(_ w: Int, _ h: Int) -> (left: Double, top: Double, right: Double, bottom: Double) {
    if resize == 0 { return (0, 0, Double(w), Double(h)) }
    let (wide, high) = (Double(width), Double(height))
    let scale = max(Double(resize) / Double(min(w, h)), wide / Double(w), high / Double(h))
    let left = max((Double(w) - wide / scale) / 2, 0)
    let top = max((Double(h) - high / scale) / 2, 0)
    return (left, top, min(left + wide / scale, Double(w)), min(top + high / scale, Double(h)))
}

/// The first pixel that another is made of, and the weights of that and the next ones.
private struct Tap {
    let first: Int
    let weights: [Double]
}

/// Returns what each of `count` pixels is made of, which a part of a line of `length` becomes. The
/// kernel is widened where the line shrinks (antialiasing), as Pillow does it.
private func taps(_ length: Int, _ start: Double, _ end: Double, _ count: Int, _ cubic: Bool) -> [Tap] {
    let from = Float(start)
    let scale = Double(Float(end) - from) / Double(count)
    let stretch = max(scale, 1)
    let support = (cubic ? 2 : 1) * stretch
    return (0..<count).map { i in
        let centre = Double(from) + (Double(i) + 0.5) * scale
        let first = max(0, Int(centre - support + 0.5))
        let last = min(length, Int(centre + support + 0.5))
        let weights = (first..<last).map { kernel((Double($0) - centre + 0.5) / stretch, cubic) }
        let sum = weights.reduce(0, +)
        return Tap(first: first, weights: weights.map { $0 / sum })
    }
}

private func kernel(_ offset: Double, _ cubic: Bool) -> Double {
    let x = abs(offset)
    if !cubic { return max(0, 1 - x) }
    if x < 1 { return (1.5 * x - 2.5) * x * x + 1 }
    return x < 2 ? ((-0.5 * x + 2.5) * x - 4) * x + 2 : 0
}

/// Pillow's weights for 8 bit: multiples of 1 / 2^22.
private func rounded(_ tap: Tap) -> Tap {
    let unit = Double(1 << 22)
    return Tap(first: tap.first, weights: tap.weights.map { ($0 * unit).rounded() / unit })
}

private func toByte(_ value: Double) -> Double { min(255, max(0, (value + 0.5).rounded(.down))) }

/// Resizes the middle axis of (outer, length, inner) to as many as there are taps.
private func pass(
    _ data: [Float], _ outer: Int, _ length: Int, _ inner: Int, _ taps: [Tap],
    _ finish: (Double) -> Double = { $0 }
) -> [Float] {
    var made: [Float] = []
    made.reserveCapacity(outer * taps.count * inner)
    for o in 0..<outer {
        for tap in taps {
            for i in 0..<inner {
                var sum = 0.0
                for (j, weight) in tap.weights.enumerated() {
                    sum += weight * Double(data[(o * length + tap.first + j) * inner + i])
                }
                made.append(Float(finish(sum)))
            }
        }
    }
    return made
}

private func readLogits(_ logits: [Float]) -> [Answer] {
    let highest = logits.max()!
    let exponents = logits.map { exp(Double($0 - highest)) }
    let sum = exponents.reduce(0, +)
    let best = exponents.indices.sorted { exponents[$0] > exponents[$1] }.prefix(top)
    return best.map { Answer(name: names[$0], id: ids[$0], share: Float(exponents[$0] / sum)) }
}

private func rows(_ numbers: [Float]) -> [[Float]] {
    (0..<shape[1]).map { Array(numbers[$0 * shape[2]..<($0 + 1) * shape[2]]) }
}

/// Returns detections, rows of 6, of candidates, rows of 4 + K: class-wise non-maximum suppression.
private func choose(_ rows: [[Float]]) -> [[Float]] {
    let pairs = rows.flatMap { row in
        (4..<row.count).filter { row[$0] >= sure }.map { Array(row[..<4]) + [row[$0], Float($0 - 4)] }
    }
    var kept: [[Float]] = []
    for pair in pairs.sorted(by: { $0[4] > $1[4] }).prefix(candidates)
    where kept.allSatisfy({ $0[5] != pair[5] || overlap($0, pair) <= allowed }) {
        kept.append(pair)
    }
    return Array(kept.prefix(boxes))
}

private func overlap(_ a: [Float], _ b: [Float]) -> Float {
    let both = max(0, min(a[2], b[2]) - max(a[0], b[0])) * max(0, min(a[3], b[3]) - max(a[1], b[1]))
    func area(_ box: [Float]) -> Float { (box[2] - box[0]) * (box[3] - box[1]) }
    return both / max(area(a) + area(b) - both, 1e-12)
}

private func readBoxes(_ detections: [[Float]], _ w: Int, _ h: Int) -> [Answer] {
    detections.filter { $0[4] >= sure }.map { row in
        let corners = zip(row, [w, h, w, h]).map { CGFloat($0 * Float($1)) }
        let box = CGRect(
            x: corners[0], y: corners[1], width: corners[2] - corners[0], height: corners[3] - corners[1])
        return Answer(name: names[Int(row[5])], id: ids[Int(row[5])], share: row[4], box: box)
    }
}

/// Returns the index of the most probable class of every pixel of the picture.
func likeliest(_ logits: [Float], _ width: Int, _ height: Int) -> [Int] {
    let (classes, h, w) = (shape[1], shape[2], shape[3])
    let across = taps(w, 0, Double(w), width, false)
    let down = taps(h, 0, Double(h), height, false)
    return (0..<height).flatMap { y in
        let row = pass(pass(logits, classes, h, w, [down[y]]), classes, w, 1, across)
        return (0..<width).map { x in
            (0..<classes).max { row[$0 * width + x] < row[$1 * width + x] }!
        }
    }
}

private func countPixels(_ mask: [Int]) -> [Answer] {
    var pixels = [Int](repeating: 0, count: names.count)
    for index in mask { pixels[index] += 1 }
    return pixels.indices.filter { pixels[$0] > 0 }.sorted { pixels[$0] > pixels[$1] }
        .map { Answer(name: names[$0], id: ids[$0], share: Float(pixels[$0]) / Float(mask.count)) }
}

// Everything between a photograph and its faces that is arithmetic alone: where the photograph lies in the input, what
// the outputs mean, which boxes stay, and whether they are the faces that must be found. It needs Foundation and no
// device, so it is tested wherever Swift runs. The same functions, under the same names, are in FaceGeometry.kt.
//
// Frames: "input" is the letterboxed picture that the model sees, "upright" the photograph as a person sees it,
// "stored" the photograph as its rows lie in memory. All are in pixels, x to the right, y down, 0 at the outer edge of
// the first pixel.

import Foundation

// MARK: - What facex.json says

/// A face: in input pixels as the model finds it, in pixels of the upright photograph as `FaceDetector` returns it.
public struct Face: Codable, Equatable, Sendable {
    /// 0 to 1.
    public var score: Float
    /// x1, y1, x2, y2.
    public var box: [Float]
    /// x, y of every point in turn.
    public var landmarks: [Float]

    public init(score: Float, box: [Float], landmarks: [Float]) {
        self.score = score
        self.box = box
        self.landmarks = landmarks
    }
}

/// How far what a model finds may be from what the reference found.
public struct Tolerances: Codable, Equatable, Sendable {
    /// Largest difference of scores.
    public let score: Double
    /// Largest difference of a coordinate of the box, as a share of sqrt(area of the expected box).
    public let box: Double
    /// Largest distance of a landmark point, as a share of the same.
    public let landmark: Double

    public init(score: Double, box: Double, landmark: Double) {
        self.score = score
        self.box = box
        self.landmark = landmark
    }
}

/// A photograph, letterboxed, with the faces that must be found in it, in input pixels.
public struct Golden: Codable, Equatable, Sendable {
    /// Name of a PNG: the very input pixels.
    public let file: String
    public let sha256: String
    public let sourceHeight: Int
    public let sourceWidth: Int
    public let scale: Double
    /// Best score first.
    public let faces: [Face]

    enum CodingKeys: String, CodingKey {
        case file, sha256, scale, faces
        case sourceHeight = "source_height"
        case sourceWidth = "source_width"
    }
}

/// Goldens of one input size.
public struct GoldenSet: Codable, Equatable, Sendable {
    public let height: Int
    public let width: Int
    public let photographs: [Golden]
}

/// What a model's outputs are.
public enum Head: String, Codable, Equatable, Sendable {
    /// Boxes, scores and landmarks of every prior, in input pixels.
    case decoded
    /// Offsets and probabilities of every prior, as the network gives them.
    case raw
    /// Faces: thresholded and suppressed inside the model, best first, padded with zeros.
    case detections
}

/// A model file of the bundle.
public struct ModelDescription: Codable, Equatable, Sendable {
    public let file: String
    public let target: String
    public let precision: String
    public let head: Head
    public let height: Int
    public let width: Int
    /// Points of a face.
    public let landmarks: Int
    /// Of the file, or of the relative paths and contents of a folder.
    public let sha256: String
    public let sizeBytes: Int
    public let minimumRuntime: String
    public let tolerances: Tolerances

    enum CodingKeys: String, CodingKey {
        case file, target, precision, head, height, width, landmarks, sha256, tolerances
        case sizeBytes = "size_bytes"
        case minimumRuntime = "minimum_runtime"
    }
}

/// What raw outputs are decoded by.
public struct Contract: Codable, Equatable, Sendable {
    /// Input pixels per cell, by level.
    public let strides: [Int]
    /// Sides of the priors, by level, input pixels.
    public let minSizes: [[Double]]
    /// Scale of the centre offsets, scale of the log sizes.
    public let variances: [Double]
    public let landmarks: Int

    enum CodingKeys: String, CodingKey {
        case strides, variances, landmarks
        case minSizes = "min_sizes"
    }
}

/// `facex.json`: what an app must know of the bundle.
public struct BundleDescription: Codable, Equatable, Sendable {
    public let schemaVersion: Int
    /// Version of facex that wrote it.
    public let facex: String
    public let contract: Contract
    /// Colour of the padding, red, green, blue.
    public let paddingRGB: [Int]
    public let scoreThreshold: Float
    public let nmsIoU: Double
    public let saturatedScore: Float
    /// The first is the default.
    public let models: [ModelDescription]
    public let goldens: GoldenSet

    enum CodingKeys: String, CodingKey {
        case facex, contract, models, goldens
        case schemaVersion = "schema_version"
        case paddingRGB = "padding_rgb"
        case scoreThreshold = "score_threshold"
        case nmsIoU = "nms_iou"
        case saturatedScore = "saturated_score"
    }
}

/// What went wrong, in words for a developer.
public struct FaceXError: Error, Equatable, CustomStringConvertible, LocalizedError, Sendable {
    public let description: String

    public init(_ description: String) {
        self.description = description
    }

    public var errorDescription: String? { description }
}

// MARK: - Values of the arithmetic

/// Where an upright photograph lies in the input: at the top left, scaled alike in both directions.
public struct LetterboxMapping: Equatable, Sendable {
    /// Input pixels per pixel of the photograph.
    public let scale: Double
    /// Height of the photograph in the input, input pixels; below is padding.
    public let contentHeight: Int
    /// Width of the photograph in the input, input pixels; at the right is padding.
    public let contentWidth: Int

    public init(scale: Double, contentHeight: Int, contentWidth: Int) {
        self.scale = scale
        self.contentHeight = contentHeight
        self.contentWidth = contentWidth
    }
}

/// How a photograph is stored, as EXIF and `CGImagePropertyOrientation` number it: what must be done to see it upright.
public enum Orientation: Int, CaseIterable, Sendable {
    case up = 1
    case upMirrored, down, downMirrored, leftMirrored, right, rightMirrored, left

    /// Whether rows of the stored photograph are columns of the upright one.
    public var swapsAxes: Bool { rawValue >= Orientation.leftMirrored.rawValue }
}

/// Boxes, scores and landmarks of every prior.
public struct DecodedOutputs: Equatable, Sendable {
    /// N x 4: x1, y1, x2, y2, input pixels.
    public var boxes: [Float]
    /// N.
    public var scores: [Float]
    /// N x 2K: x, y of every point in turn, input pixels.
    public var landmarks: [Float]

    public init(boxes: [Float], scores: [Float], landmarks: [Float]) {
        self.boxes = boxes
        self.scores = scores
        self.landmarks = landmarks
    }
}

/// How far the faces that were found in a golden are from those that must be.
public struct GoldenComparison: Equatable, Sendable {
    /// Indices of an expected and a found face, best overlap first.
    public var pairs: [[Int]]
    /// Expected faces that nothing was found for, although their score is beyond doubt.
    public var lost: Int
    /// Found faces that are not expected, although their score is beyond doubt.
    public var extra: Int
    /// Largest difference of scores over the pairs; 0 without a pair, infinite where a value is not finite.
    public var score: Double
    /// Largest difference of a coordinate of the box, as a share of the side of the expected box; likewise.
    public var box: Double
    /// Largest distance of a landmark point, as a share of the same; likewise.
    public var landmark: Double
    /// Nothing is lost or extra, and every pair is within the tolerances.
    public var passed: Bool
}

// MARK: - The arithmetic

public enum FaceGeometry {
    /// Overlap from which two boxes are of one face, when faces are compared.
    public static let matchIoU = 0.5

    /// Where an upright photograph lies in the input.
    public static func letterbox(
        sourceHeight: Int, sourceWidth: Int, inputHeight: Int, inputWidth: Int
    ) -> LetterboxMapping {
        let scale = min(Double(inputHeight) / Double(sourceHeight), Double(inputWidth) / Double(sourceWidth))
        func content(_ source: Int, _ input: Int) -> Int {
            // Python's round, by which the goldens were made, takes halves to the even neighbour
            min(input, max(1, Int((Double(source) * scale).rounded(.toNearestOrEven))))
        }
        return LetterboxMapping(
            scale: scale, contentHeight: content(sourceHeight, inputHeight),
            contentWidth: content(sourceWidth, inputWidth)
        )
    }

    /// A face from input pixels to pixels of the upright photograph. It may reach beyond the photograph's edges.
    public static func toSource(_ face: Face, _ mapping: LetterboxMapping) -> Face {
        func back(_ value: Float) -> Float { Float(Double(value) / mapping.scale) }
        return Face(score: face.score, box: face.box.map(back), landmarks: face.landmarks.map(back))
    }

    /// Height and width of a stored photograph once it is upright, or of an upright one once it is stored.
    public static func rotated(height: Int, width: Int, orientation: Orientation) -> (height: Int, width: Int) {
        orientation.swapsAxes ? (width, height) : (height, width)
    }

    /// A face from the upright photograph to the photograph as it is stored, whose size is given.
    ///
    /// The order of the landmarks stays, also where the photograph is mirrored.
    public static func toStored(_ face: Face, height: Int, width: Int, orientation: Orientation) -> Face {
        let (h, w) = (Float(height), Float(width))
        func stored(_ x: Float, _ y: Float) -> (x: Float, y: Float) {
            switch orientation {
            case .up: return (x, y)
            case .upMirrored: return (w - x, y)
            case .down: return (w - x, h - y)
            case .downMirrored: return (x, h - y)
            case .leftMirrored: return (y, x)
            case .right: return (y, h - x)
            case .rightMirrored: return (w - y, h - x)
            case .left: return (w - y, x)
            }
        }
        let a = stored(face.box[0], face.box[1])
        let b = stored(face.box[2], face.box[3])
        var landmarks: [Float] = []
        for i in stride(from: 0, to: face.landmarks.count - 1, by: 2) {
            let point = stored(face.landmarks[i], face.landmarks[i + 1])
            landmarks += [point.x, point.y]
        }
        let box = [min(a.x, b.x), min(a.y, b.y), max(a.x, b.x), max(a.y, b.y)]
        return Face(score: face.score, box: box, landmarks: landmarks)
    }

    /// Anchor boxes of every cell, N x 4: centre x, centre y, width, height, input pixels; by level, row, column, size.
    public static func priors(_ contract: Contract, height: Int, width: Int) -> [Float] {
        var priors: [Float] = []
        for (step, sides) in zip(contract.strides, contract.minSizes) {
            // a coarse cell may reach beyond the input
            let rows = (height + step - 1) / step
            let columns = (width + step - 1) / step
            for row in 0..<rows {
                for column in 0..<columns {
                    for side in sides {
                        priors += [
                            Float((Double(column) + 0.5) * Double(step)), Float((Double(row) + 0.5) * Double(step)),
                            Float(side), Float(side),
                        ]
                    }
                }
            }
        }
        return priors
    }

    /// Raw outputs to boxes, scores and points (Liu et al. 2016, SSD, eq. 2).
    ///
    /// - Parameters:
    ///   - loc: N x 4, offsets of centre and log size.
    ///   - conf: N x 2, probability of background and of a face.
    ///   - landm: N x 2K, offsets of the points.
    ///   - priors: N x 4 of `priors`.
    ///   - variances: the contract's.
    public static func decodeRaw(
        loc: [Float], conf: [Float], landm: [Float], priors: [Float], variances: [Double]
    ) throws -> DecodedOutputs {
        let count = priors.count / 4
        guard count > 0, loc.count == 4 * count, conf.count == 2 * count, landm.count % (2 * count) == 0 else {
            throw FaceXError(
                "loc, conf and landm hold \(loc.count), \(conf.count) and \(landm.count) values, for \(count) priors"
            )
        }
        let values = landm.count / count
        let (centreScale, sizeScale) = (Float(variances[0]), Float(variances[1]))
        var decoded = DecodedOutputs(
            boxes: [Float](repeating: 0, count: loc.count), scores: [Float](repeating: 0, count: count),
            landmarks: [Float](repeating: 0, count: landm.count)
        )
        for i in 0..<count {
            for axis in 0..<2 {
                let centre = priors[4 * i + axis]
                let side = priors[4 * i + 2 + axis]
                let middle = centre + loc[4 * i + axis] * centreScale * side
                let half = side * Foundation.exp(loc[4 * i + 2 + axis] * sizeScale) / 2
                decoded.boxes[4 * i + axis] = middle - half
                decoded.boxes[4 * i + 2 + axis] = middle + half
                for k in stride(from: axis, to: values, by: 2) {
                    decoded.landmarks[values * i + k] = centre + landm[values * i + k] * centreScale * side
                }
            }
            decoded.scores[i] = conf[2 * i + 1]
        }
        return decoded
    }

    /// Intersection over union of two boxes; 0 where either is empty, inverted or not finite.
    public static func iou(_ a: [Float], _ b: [Float]) -> Double {
        guard a.allSatisfy({ $0.isFinite }), b.allSatisfy({ $0.isFinite }) else { return 0 }
        func extent(_ low: Float, _ high: Float) -> Double { max(0, Double(high) - Double(low)) }
        let intersection = extent(max(a[0], b[0]), min(a[2], b[2])) * extent(max(a[1], b[1]), min(a[3], b[3]))
        let areas = extent(a[0], a[2]) * extent(a[1], a[3]) + extent(b[0], b[2]) * extent(b[1], b[3])
        let union = areas - intersection
        return union > 0 ? intersection / union : 0
    }

    /// Greedy non-maximum suppression: indices of the boxes that stay, best score first.
    ///
    /// - Parameters:
    ///   - boxes: x1, y1, x2, y2 each.
    ///   - scores: one a box; ties keep the earlier box, and all scores from `saturatedScore` on are ties, because
    ///     float32 tells them too little apart to say which box is the better.
    ///   - iouThreshold: a box that overlaps a kept one by more than this is dropped.
    public static func nonMaximumSuppression(
        boxes: [[Float]], scores: [Float], iouThreshold: Double, saturatedScore: Float
    ) -> [Int] {
        let order = scores.indices.sorted { i, j in
            let (a, b) = (min(scores[i], saturatedScore), min(scores[j], saturatedScore))
            return a == b ? i < j : a > b
        }
        var kept: [Int] = []
        for i in order where kept.allSatisfy({ iou(boxes[$0], boxes[i]) <= iouThreshold }) {
            kept.append(i)
        }
        return kept
    }

    /// The faces in decoded outputs, in input pixels, best score first: thresholded, then suppressed.
    public static func detections(
        _ outputs: DecodedOutputs, scoreThreshold: Float, iouThreshold: Double, saturatedScore: Float
    ) throws -> [Face] {
        let candidates = try split(outputs, outputs.scores.indices.filter { outputs.scores[$0] >= scoreThreshold })
        let kept = nonMaximumSuppression(
            boxes: candidates.map(\.box), scores: candidates.map(\.score), iouThreshold: iouThreshold,
            saturatedScore: saturatedScore
        )
        return kept.map { candidates[$0] }
    }

    /// The faces in the outputs of a model that thresholds and suppresses by itself, in input pixels, best score first.
    ///
    /// - Parameters:
    ///   - outputs: padded beyond the faces.
    ///   - count: how many faces there are.
    ///   - scoreThreshold: faces below it are left out.
    public static func readDetections(_ outputs: DecodedOutputs, count: Int, scoreThreshold: Float) throws -> [Face] {
        guard 0...outputs.scores.count ~= count else {
            throw FaceXError("count is \(count), and there is room for \(outputs.scores.count) faces")
        }
        return try split(outputs, (0..<count).filter { outputs.scores[$0] >= scoreThreshold })
    }

    /// Whether the faces that were found are those of a golden.
    ///
    /// Faces are paired one to one by overlap alone. What is left over is lost or extra only beyond the tolerance of
    /// scores, because a face at the threshold may be found or not; every pair is held to all three tolerances.
    public static func compareGolden(
        expected: [Face], found: [Face], tolerances: Tolerances, scoreThreshold: Float
    ) -> GoldenComparison {
        var overlaps: [(iou: Double, expected: Int, found: Int)] = []
        for (i, face) in expected.enumerated() {
            for (j, other) in found.enumerated() {
                let overlap = iou(face.box, other.box)
                if overlap >= matchIoU { overlaps.append((overlap, i, j)) }
            }
        }
        overlaps.sort { a, b in
            if a.iou != b.iou { return a.iou > b.iou }
            return a.expected != b.expected ? a.expected < b.expected : a.found < b.found
        }
        var comparison = GoldenComparison(pairs: [], lost: 0, extra: 0, score: 0, box: 0, landmark: 0, passed: false)
        var (freeExpected, freeFound) = (Set(expected.indices), Set(found.indices))
        for overlap in overlaps where freeExpected.contains(overlap.expected) && freeFound.contains(overlap.found) {
            freeExpected.remove(overlap.expected)
            freeFound.remove(overlap.found)
            comparison.pairs.append([overlap.expected, overlap.found])
            measure(expected[overlap.expected], found[overlap.found], into: &comparison)
        }
        // a score that is not a number counts, like one beyond doubt
        let doubtful = Double(scoreThreshold) + tolerances.score
        comparison.lost = freeExpected.filter { !(Double(expected[$0].score) < doubtful) }.count
        comparison.extra = freeFound.filter { !(Double(found[$0].score) < doubtful) }.count
        comparison.passed = comparison.lost == 0 && comparison.extra == 0 && comparison.score <= tolerances.score
            && comparison.box <= tolerances.box && comparison.landmark <= tolerances.landmark
        return comparison
    }

    /// Those of the outputs that are chosen, as faces.
    private static func split(_ outputs: DecodedOutputs, _ chosen: [Int]) throws -> [Face] {
        let (scores, boxes, landmarks) = (outputs.scores, outputs.boxes, outputs.landmarks)
        let count = scores.count
        guard count > 0, boxes.count == 4 * count, landmarks.count % (2 * count) == 0 else {
            throw FaceXError("\(boxes.count) box and \(landmarks.count) landmark values, for \(count) scores")
        }
        let values = landmarks.count / count
        return chosen.map { i in
            let points = landmarks[values * i..<values * (i + 1)]
            return Face(score: scores[i], box: Array(boxes[4 * i..<4 * i + 4]), landmarks: Array(points))
        }
    }

    /// Hold a pair against the worst so far.
    private static func measure(_ expected: Face, _ found: Face, into comparison: inout GoldenComparison) {
        func worse(_ worst: Double, _ value: Double) -> Double { value.isFinite ? max(worst, value) : .infinity }
        func difference(_ a: Float, _ b: Float) -> Double { Double(a) - Double(b) }
        let box = expected.box.map(Double.init)
        let side = ((box[2] - box[0]) * (box[3] - box[1])).squareRoot()
        comparison.score = worse(comparison.score, abs(difference(expected.score, found.score)))
        for (a, b) in zip(expected.box, found.box) {
            comparison.box = worse(comparison.box, abs(difference(a, b)) / side)
        }
        guard expected.landmarks.count == found.landmarks.count else {
            comparison.landmark = .infinity
            return
        }
        for k in stride(from: 0, to: expected.landmarks.count - 1, by: 2) {
            let x = difference(expected.landmarks[k], found.landmarks[k])
            let y = difference(expected.landmarks[k + 1], found.landmarks[k + 1])
            comparison.landmark = worse(comparison.landmark, (x * x + y * y).squareRoot() / side)
        }
    }
}

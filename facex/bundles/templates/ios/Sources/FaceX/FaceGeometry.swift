// The arithmetic around the model: where a picture lies in the input, what the outputs mean, which boxes stay, and
// whether they are the faces that must be found. It needs Foundation and no device, so it is tested wherever Swift
// runs. The same is in FaceGeometry.kt for Android, under the same names.
//
// Frames: "buffer" is the picture as it lies in memory, "upright" that turned for viewing, "input pixels" are those of
// the letterboxed model input. Origin at the top left corner, x to the right, y down; a coordinate is a position, so
// pixel i covers i to i + 1.

import Foundation

/// A face. Its box is not clamped: a face at the border may reach beyond the picture.
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

// MARK: - Where things are

/// How a picture is turned, as EXIF and `CGImagePropertyOrientation` number it: what must be done to see it upright.
public enum Orientation: Int, CaseIterable, Sendable {
    case up = 1
    case upMirrored, down, downMirrored, leftMirrored, right, rightMirrored, left

    /// Whether rows of the buffer are columns of the upright picture.
    public var swapsAxes: Bool { rawValue >= Orientation.leftMirrored.rawValue }
}

/// How a picture lies in memory.
public struct Frame: Equatable, Sendable {
    public let width: Int
    public let height: Int
    public let orientation: Orientation

    public init(width: Int, height: Int, orientation: Orientation = .up) {
        self.width = width
        self.height = height
        self.orientation = orientation
    }

    public var uprightWidth: Int { orientation.swapsAxes ? height : width }
    public var uprightHeight: Int { orientation.swapsAxes ? width : height }

    /// A face of the upright picture in the pixels of the buffer; its box is again left, top, right, bottom.
    ///
    /// The order of the landmarks stays, also where the picture is mirrored.
    public func toBuffer(_ face: Face) -> Face {
        let a = toBuffer(face.box[0], face.box[1])
        let b = toBuffer(face.box[2], face.box[3])
        var landmarks: [Float] = []
        for i in stride(from: 0, to: face.landmarks.count - 1, by: 2) {
            let point = toBuffer(face.landmarks[i], face.landmarks[i + 1])
            landmarks += [point.x, point.y]
        }
        let box = [min(a.x, b.x), min(a.y, b.y), max(a.x, b.x), max(a.y, b.y)]
        return Face(score: face.score, box: box, landmarks: landmarks)
    }

    /// A point of the upright picture to the buffer.
    public func toBuffer(_ x: Float, _ y: Float) -> (x: Float, y: Float) {
        let (w, h) = (Float(width), Float(height))
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
}

/// A picture in the model's frame: resized with the aspect kept, at the top left.
public struct Letterbox: Equatable, Sendable {
    /// Input pixels per upright pixel.
    public let scale: Double
    /// Input pixels that the picture takes; what is to the right and below is padding.
    public let contentWidth: Int
    public let contentHeight: Int
}

extension FaceGeometry {
    public static func letterbox(
        uprightWidth: Int, uprightHeight: Int, inputWidth: Int, inputHeight: Int
    ) -> Letterbox {
        let scale = min(Double(inputHeight) / Double(uprightHeight), Double(inputWidth) / Double(uprightWidth))
        func content(_ upright: Int, _ input: Int) -> Int {
            // half to even, as the reference does
            min(input, max(1, Int((Double(upright) * scale).rounded(.toNearestOrEven))))
        }
        return Letterbox(
            scale: scale, contentWidth: content(uprightWidth, inputWidth),
            contentHeight: content(uprightHeight, inputHeight)
        )
    }

    /// A face in input pixels to the upright picture.
    public static func toUpright(_ face: Face, _ letterbox: Letterbox) -> Face {
        func back(_ value: Float) -> Float { Float(Double(value) / letterbox.scale) }
        return Face(score: face.score, box: face.box.map(back), landmarks: face.landmarks.map(back))
    }
}

// MARK: - What the model says

/// Boxes, scores and landmarks, one a prior or one a face.
private struct Decoded {
    /// N x 4: x1, y1, x2, y2, input pixels.
    var boxes: [Float]
    /// N.
    var scores: [Float]
    /// N x 2K: x, y of every point in turn, input pixels.
    var landmarks: [Float]

    /// Those that are chosen, as faces.
    func faces(_ chosen: [Int]) throws -> [Face] {
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
}

/// Reads the outputs of one model, by name; an output that it does not know is left alone.
public struct Head: Sendable {
    private static let known = [
        "decoded": ["boxes", "scores", "landmarks"],
        "raw": ["loc", "conf", "landm"],
        "detections": ["boxes", "scores", "landmarks", "count"],
    ]

    /// Names of the outputs that `faces` needs.
    public let names: [String]

    private let description: Description
    private let model: Model
    private let anchors: [Float]

    /// - Throws: `FaceXError` where the model's head is none that is known.
    public init(_ description: Description, _ model: Model) throws {
        guard let names = Head.known[model.head] else {
            let heads = Head.known.keys.sorted().joined(separator: ", ")
            throw FaceXError("\(model.file): a \(model.head) head; can read \(heads)")
        }
        self.names = names
        self.description = description
        self.model = model
        let contract = description.contract
        anchors = model.head == "raw"
            ? FaceGeometry.priors(contract, inputWidth: model.width, inputHeight: model.height) : []
    }

    /// Faces in input pixels, best score first.
    ///
    /// - Parameter outputs: the values of every output, in row-major order.
    public func faces(_ outputs: [String: [Float]]) throws -> [Face] {
        func output(_ name: String) throws -> [Float] {
            guard let values = outputs[name] else { throw FaceXError("\(model.file): gave no output \(name)") }
            return values
        }
        if model.head == "raw" {
            return try select(try raw(loc: try output("loc"), conf: try output("conf"), landm: try output("landm")))
        }
        let decoded = Decoded(
            boxes: try output("boxes"), scores: try output("scores"), landmarks: try output("landmarks")
        )
        return model.head == "detections" ? try finished(decoded, try output("count")) : try select(decoded)
    }

    /// Faces that the model thresholded and suppressed by itself; the rest is padding.
    private func finished(_ decoded: Decoded, _ count: [Float]) throws -> [Face] {
        let room = decoded.scores.count
        guard let count = count.first, count >= 0, count <= Float(room) else {
            throw FaceXError("\(model.file): count is \(count), and there is room for \(room) faces")
        }
        return try decoded.faces((0..<Int(count)).filter { decoded.scores[$0] >= description.scoreThreshold })
    }

    /// Offsets to boxes and points (Liu et al. 2016, SSD, eq. 2).
    private func raw(loc: [Float], conf: [Float], landm: [Float]) throws -> Decoded {
        let count = anchors.count / 4
        guard loc.count == 4 * count, conf.count == 2 * count, landm.count == 2 * model.landmarks * count else {
            throw FaceXError(
                "\(model.file): \(loc.count), \(conf.count) and \(landm.count) raw values, for \(count) priors"
            )
        }
        let values = 2 * model.landmarks
        let (ofCentre, ofSize) = (Float(description.contract.variances[0]), Float(description.contract.variances[1]))
        var decoded = Decoded(boxes: loc, scores: (0..<count).map { conf[2 * $0 + 1] }, landmarks: landm)
        for i in 0..<count {
            for axis in 0..<2 {
                let (centre, side) = (anchors[4 * i + axis], anchors[4 * i + 2 + axis])
                let middle = centre + loc[4 * i + axis] * ofCentre * side
                let half = side * Foundation.exp(loc[4 * i + 2 + axis] * ofSize) / 2
                decoded.boxes[4 * i + axis] = middle - half
                decoded.boxes[4 * i + 2 + axis] = middle + half
                for k in stride(from: values * i + axis, to: values * (i + 1), by: 2) {
                    decoded.landmarks[k] = centre + landm[k] * ofCentre * side
                }
            }
        }
        return decoded
    }

    /// Threshold, then NMS; a face is only built where its score is high enough.
    private func select(_ decoded: Decoded) throws -> [Face] {
        let candidates = decoded.scores.indices.filter { decoded.scores[$0] >= description.scoreThreshold }
        return FaceGeometry.nms(
            try decoded.faces(candidates), threshold: description.nmsIou, saturated: description.saturatedScore
        )
    }
}

// MARK: - Goldens

/// What was found against what must be found.
public struct Verdict: Equatable, Sendable {
    /// How many expected faces were found.
    public let pairs: Int
    /// Largest difference of scores over the pairs; infinite where a value is not finite, as the next two.
    public let worstScore: Double
    /// Largest difference of a coordinate of the box, as a share of the side of the expected face.
    public let worstBox: Double
    /// Largest distance of a landmark point, as a share of the same.
    public let worstLandmark: Double
    /// Expected faces that were not found, although their score is beyond doubt.
    public let lost: Int
    /// Faces that were found and are not expected, although their score is beyond doubt.
    public let extra: Int
    /// What is beyond the tolerances, in words.
    public let complaints: [String]

    public var passed: Bool { complaints.isEmpty }
}

// MARK: - The arithmetic

public enum FaceGeometry {
    /// Anchor boxes of every cell by level, row, column, min size: centre x, centre y, width, height in input pixels.
    public static func priors(_ contract: Contract, inputWidth: Int, inputHeight: Int) -> [Float] {
        var found: [Float] = []
        for (step, sides) in zip(contract.strides, contract.minSizes) {
            // a coarse cell may reach beyond the input
            for row in 0..<(inputHeight + step - 1) / step {
                for column in 0..<(inputWidth + step - 1) / step {
                    for side in sides {
                        found.append(Float((Double(column) + 0.5) * Double(step)))
                        found.append(Float((Double(row) + 0.5) * Double(step)))
                        found.append(Float(side))
                        found.append(Float(side))
                    }
                }
            }
        }
        return found
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

    /// Greedy non-maximum suppression: the best score first, and boxes dropped that overlap a kept one by too much.
    ///
    /// - Parameters:
    ///   - faces: ties keep the earlier one.
    ///   - threshold: overlap beyond which a box is dropped.
    ///   - saturated: all scores from here on are ties: there float32 tells scores too little apart to say which box is
    ///     the better.
    public static func nms(_ faces: [Face], threshold: Double, saturated: Float) -> [Face] {
        let order = faces.indices.sorted { i, j in
            let (a, b) = (min(faces[i].score, saturated), min(faces[j].score, saturated))
            return a == b ? i < j : a > b
        }
        var kept: [Face] = []
        for i in order where !kept.contains(where: { iou($0.box, faces[i].box) > threshold }) {
            kept.append(faces[i])
        }
        return kept
    }

    /// Holds faces in input pixels against those of a golden.
    ///
    /// Faces are paired one to one by overlap alone. What is left over is lost or extra only beyond the tolerance of
    /// scores, because a face at the threshold may be found or not; every pair is held to all three tolerances.
    public static func compare(
        expected: [Face], found: [Face], tolerances: Tolerances, scoreThreshold: Float
    ) -> Verdict {
        let pairs = pair(expected, found)
        // a score that is not a number counts, like one beyond doubt
        let sure = Double(scoreThreshold) + tolerances.score
        func unpaired(_ faces: [Face], _ taken: Set<Int>) -> Int {
            faces.indices.filter { !taken.contains($0) && !(Double(faces[$0].score) < sure) }.count
        }
        let lost = unpaired(expected, Set(pairs.map(\.expected)))
        let extra = unpaired(found, Set(pairs.map(\.found)))
        var worst = [0.0, 0.0, 0.0]
        for pair in pairs {
            for (i, value) in differences(expected[pair.expected], found[pair.found]).enumerated() {
                worst[i] = value.isFinite ? max(worst[i], value) : .infinity
            }
        }
        var complaints: [String] = []
        if lost > 0 { complaints.append("\(lost) of \(expected.count) faces lost") }
        if extra > 0 { complaints.append("\(extra) faces that are not there") }
        let limits = [("score", tolerances.score), ("box", tolerances.box), ("landmark", tolerances.landmark)]
        for (value, (name, limit)) in zip(worst, limits) where !(value <= limit) {
            complaints.append("\(name) off by \(value), allowed \(limit)")
        }
        return Verdict(
            pairs: pairs.count, worstScore: worst[0], worstBox: worst[1], worstLandmark: worst[2], lost: lost,
            extra: extra, complaints: complaints
        )
    }

    /// Indices of faces that are the same: overlaps of 0.5 and more, the largest first, each face once.
    private static func pair(_ expected: [Face], _ found: [Face]) -> [(expected: Int, found: Int)] {
        var overlaps: [(iou: Double, expected: Int, found: Int)] = []
        for (e, face) in expected.enumerated() {
            for (f, other) in found.enumerated() {
                let overlap = iou(face.box, other.box)
                if overlap >= 0.5 { overlaps.append((overlap, e, f)) }
            }
        }
        overlaps.sort { a, b in
            if a.iou != b.iou { return a.iou > b.iou }
            return a.expected != b.expected ? a.expected < b.expected : a.found < b.found
        }
        var pairs: [(expected: Int, found: Int)] = []
        for overlap in overlaps
        where !pairs.contains(where: { $0.expected == overlap.expected || $0.found == overlap.found }) {
            pairs.append((overlap.expected, overlap.found))
        }
        return pairs
    }

    /// Of a pair: of scores, of box coordinates, of landmark points; the latter as shares of the expected face's side.
    private static func differences(_ expected: Face, _ found: Face) -> [Double] {
        func difference(_ a: Float, _ b: Float) -> Double { abs(Double(a) - Double(b)) }
        let box = expected.box.map(Double.init)
        let side = ((box[2] - box[0]) * (box[3] - box[1])).squareRoot()
        let corners = zip(expected.box, found.box).map { difference($0, $1) / side }
        var points = expected.landmarks.count == found.landmarks.count ? [0.0] : [.infinity]
        for k in stride(from: 0, to: min(expected.landmarks.count, found.landmarks.count) - 1, by: 2) {
            let x = difference(expected.landmarks[k], found.landmarks[k])
            let y = difference(expected.landmarks[k + 1], found.landmarks[k + 1])
            points.append((x * x + y * y).squareRoot() / side)
        }
        return [difference(expected.score, found.score), largest(corners), largest(points)]
    }

    /// The largest value; infinite where one is not finite.
    private static func largest(_ values: [Double]) -> Double {
        values.allSatisfy(\.isFinite) ? values.max() ?? 0 : .infinity
    }
}

// The arithmetic against the values in vectors.json. Needs no device, and runs wherever Swift does.

import Foundation
import XCTest

@testable import FaceX

final class GeometryTests: XCTestCase {
    private var vectors: Vectors!
    private var description: Description!

    override func setUpWithError() throws {
        vectors = try Vectors.load()
        description = try FaceBundle.description()
    }

    func testLetterbox() {
        XCTAssertFalse(vectors.letterbox.isEmpty)
        for v in vectors.letterbox {
            let letterbox = FaceGeometry.letterbox(
                uprightWidth: v.uprightWidth, uprightHeight: v.uprightHeight, inputWidth: v.inputWidth,
                inputHeight: v.inputHeight
            )
            XCTAssertEqual(letterbox.scale, v.scale)
            XCTAssertEqual(letterbox.contentHeight, v.contentHeight)
            XCTAssertEqual(letterbox.contentWidth, v.contentWidth)
        }
    }

    func testLetterboxOfTheGoldens() {
        let goldens = description.goldens
        for golden in goldens.photographs {
            let letterbox = FaceGeometry.letterbox(
                uprightWidth: golden.sourceWidth, uprightHeight: golden.sourceHeight, inputWidth: goldens.width,
                inputHeight: goldens.height
            )
            XCTAssertEqual(letterbox.scale, golden.scale, accuracy: 1e-5 * golden.scale)
        }
    }

    func testToUpright() {
        let letterbox = FaceGeometry.letterbox(uprightWidth: 640, uprightHeight: 480, inputWidth: 320, inputHeight: 320)
        let face = Face(score: 0.9, box: [10, 20, 30, 40], landmarks: [12, 24])
        let expected = Face(score: 0.9, box: [20, 40, 60, 80], landmarks: [24, 48])
        XCTAssertEqual(FaceGeometry.toUpright(face, letterbox), expected)
    }

    func testToBuffer() throws {
        XCTAssertEqual(Set(vectors.turns.map(\.orientation)), Set(Orientation.allCases.map(\.rawValue)))
        for v in vectors.turns {
            let orientation = try XCTUnwrap(Orientation(rawValue: v.orientation))
            let frame = Frame(width: v.width, height: v.height, orientation: orientation)
            XCTAssertEqual(frame.uprightHeight, v.uprightHeight)
            XCTAssertEqual(frame.uprightWidth, v.uprightWidth)
            let (x, y) = (v.upright[0], v.upright[1])
            let buffer = frame.toBuffer(Face(score: 1, box: [x - 1, y - 2, x + 1, y + 2], landmarks: v.upright))
            let reach: (x: Float, y: Float) = orientation.swapsAxes ? (2, 1) : (1, 2)
            let (a, b) = (v.buffer[0], v.buffer[1])
            XCTAssertEqual(buffer.landmarks, v.buffer)
            XCTAssertEqual(buffer.box, [a - reach.x, b - reach.y, a + reach.x, b + reach.y])
        }
    }

    func testPixelsAreTheReferencesByteForByte() throws {
        XCTAssertEqual(Set(vectors.pictures.map(\.orientation)), Set(Orientation.allCases.map(\.rawValue)))
        for v in vectors.pictures {
            let orientation = try XCTUnwrap(Orientation(rawValue: v.orientation))
            let frame = Frame(width: v.width, height: v.height, orientation: orientation)
            let letterbox = FaceGeometry.letterbox(
                uprightWidth: frame.uprightWidth, uprightHeight: frame.uprightHeight, inputWidth: v.inputWidth,
                inputHeight: v.inputHeight
            )
            // rows with bytes behind them, as pixel buffers have
            let (sourceRow, inputRow) = (4 * v.width + 12, 4 * v.inputWidth + 20)
            var source = [UInt8](repeating: 77, count: sourceRow * v.height)
            for (i, byte) in v.source.enumerated() {
                let (pixel, channel) = i.quotientAndRemainder(dividingBy: 3)
                let (y, x) = pixel.quotientAndRemainder(dividingBy: v.width)
                source[y * sourceRow + 4 * x + 2 - channel] = byte
            }
            var input = [UInt8](repeating: 0, count: inputRow * v.inputHeight)
            source.withUnsafeBytes { bytes in
                input.withUnsafeMutableBytes { target in
                    FacePixels.write(
                        bytes, bytesPerRow: sourceRow, frame: frame, letterbox: letterbox, paddingRGB: v.paddingRgb,
                        into: target, destinationBytesPerRow: inputRow, inputWidth: v.inputWidth,
                        inputHeight: v.inputHeight
                    )
                }
            }
            var rgb = Data()
            for y in 0..<v.inputHeight {
                for x in 0..<v.inputWidth {
                    let at = y * inputRow + 4 * x
                    rgb.append(contentsOf: [input[at + 2], input[at + 1], input[at]])
                    XCTAssertEqual(input[at + 3], 255)
                }
            }
            XCTAssertEqual(rgb, v.input, "orientation \(v.orientation), \(v.height)x\(v.width)")
        }
    }

    func testPriors() {
        let goldens = description.goldens
        let priors = FaceGeometry.priors(
            description.contract, inputWidth: goldens.width, inputHeight: goldens.height
        )
        XCTAssertEqual(priors.count, 4 * vectors.priors.count)
        for (index, values) in zip(vectors.priors.indices, vectors.priors.values) {
            XCTAssertEqual(Array(priors[4 * index..<4 * index + 4]), values)
        }
    }

    func testHeads() throws {
        XCTAssertEqual(Set(vectors.outputs.map(\.head)), ["decoded", "raw", "detections"])
        for v in vectors.outputs {
            let head = try Head(description, try model(v.head, height: v.height, width: v.width))
            XCTAssertEqual(Set(head.names), Set(v.outputs.keys))
            let faces = try head.faces(v.outputs)
            XCTAssertEqual(faces.count, v.faces.count, v.head)
            for (face, expected) in zip(faces, v.faces) {
                XCTAssertEqual(face.score, expected.score)
                assertEqual(face.box, expected.box, accuracy: 1e-3, v.head)
                assertEqual(face.landmarks, expected.landmarks, accuracy: 1e-3, v.head)
            }
            for name in head.names {
                var broken = v.outputs
                broken[name] = nil
                XCTAssertThrowsError(try head.faces(broken), "\(v.head) without \(name)")
                broken[name] = name == "count" ? [Float](repeating: 1e6, count: 1) : v.outputs[name]?.dropLast()
                XCTAssertThrowsError(try head.faces(broken), "\(v.head) with a shorter \(name)")
            }
        }
        XCTAssertThrowsError(try Head(description, try model("mesh", height: 64, width: 64)))
    }

    /// The first model with another head, of another size.
    private func model(_ head: String, height: Int, width: Int) throws -> Model {
        let encoded = try JSONEncoder().encode(description.models[0])
        var plain = try XCTUnwrap(JSONSerialization.jsonObject(with: encoded) as? [String: Any])
        plain["head"] = head
        plain["height"] = height
        plain["width"] = width
        return try JSONDecoder().decode(Model.self, from: JSONSerialization.data(withJSONObject: plain))
    }

    func testNms() {
        XCTAssertFalse(vectors.suppression.isEmpty)
        for v in vectors.suppression {
            let faces = v.scores.indices.map { Face(score: v.scores[$0], box: v.boxes[$0], landmarks: [Float($0)]) }
            let kept = FaceGeometry.nms(faces, threshold: description.nmsIou, saturated: description.saturatedScore)
            XCTAssertEqual(kept, v.kept.map { faces[$0] })
        }
    }

    func testOverlapOfBoxesThatAreNone() {
        XCTAssertEqual(FaceGeometry.iou([0, 0, 2, 2], [1, 0, 3, 2]), 1 / 3, accuracy: 1e-12)
        for box: [Float] in [[0, 0, 0, 2], [2, 2, 0, 0], [0, 0, .infinity, 2], [.nan, 0, 2, 2]] {
            XCTAssertEqual(FaceGeometry.iou(box, [0, 0, 2, 2]), 0)
            XCTAssertEqual(FaceGeometry.iou(box, box), 0)
        }
    }

    func testCompare() {
        XCTAssertFalse(vectors.comparisons.isEmpty)
        for v in vectors.comparisons {
            let verdict = FaceGeometry.compare(
                expected: v.expected, found: v.found, tolerances: v.tolerances,
                scoreThreshold: description.scoreThreshold
            )
            XCTAssertEqual(verdict.pairs, v.pairs, v.name)
            XCTAssertEqual(verdict.lost, v.lost, v.name)
            XCTAssertEqual(verdict.extra, v.extra, v.name)
            XCTAssertEqual(verdict.worstScore, v.score, accuracy: 1e-5, v.name)
            XCTAssertEqual(verdict.worstBox, v.box, accuracy: 1e-5, v.name)
            XCTAssertEqual(verdict.worstLandmark, v.landmark, accuracy: 1e-5, v.name)
            XCTAssertEqual(verdict.passed, v.passed, v.name)
        }
    }

    func testWhatIsNotANumberFails() {
        let face = Face(score: 0.9, box: [0, 0, 10, 10], landmarks: [1, 2])
        let tolerances = Tolerances(score: 0.1, box: 0.1, landmark: 0.1)
        func compare(_ found: Face) -> Verdict {
            FaceGeometry.compare(expected: [face], found: [found], tolerances: tolerances, scoreThreshold: 0.5)
        }
        XCTAssertTrue(compare(face).passed)
        var broken = face
        broken.landmarks[1] = .nan
        XCTAssertEqual(compare(broken).worstLandmark, .infinity)
        XCTAssertFalse(compare(broken).passed)
        broken = face
        broken.score = .nan
        XCTAssertEqual(compare(broken).worstScore, .infinity)
        XCTAssertFalse(compare(broken).passed)
    }

    func testTensors() {
        for v in vectors.halves {
            XCTAssertEqual(FaceTensor.half(v.bits), v.value)
        }
        XCTAssertEqual(FaceTensor.half(0x7c00), .infinity)
        XCTAssertTrue(FaceTensor.half(0x7e00).isNaN)
        // [1, 2, 3] with a padded row, as Core ML hands them out
        let floats: [Float] = [1, 2, 3, -1, 4, 5, 6, -1]
        let halves: [UInt16] = [0x3c00, 0x4000, 0x4200, 0, 0x4400, 0x4500, 0x4600, 0]
        let numbers: [Int32] = [1, 2, 3, -1, 4, 5, 6, -1]
        let doubles: [Double] = [1, 2, 3, -1, 4, 5, 6, -1]
        func read(_ bytes: UnsafeRawBufferPointer, _ kind: FaceTensor.Kind) -> [Float] {
            FaceTensor.values(bytes.baseAddress!, kind: kind, shape: [1, 2, 3], strides: [8, 4, 1])
        }
        XCTAssertEqual(floats.withUnsafeBytes { read($0, .float32) }, [1, 2, 3, 4, 5, 6])
        XCTAssertEqual(halves.withUnsafeBytes { read($0, .float16) }, [1, 2, 3, 4, 5, 6])
        XCTAssertEqual(numbers.withUnsafeBytes { read($0, .int32) }, [1, 2, 3, 4, 5, 6])
        XCTAssertEqual(doubles.withUnsafeBytes { read($0, .double) }, [1, 2, 3, 4, 5, 6])
    }
}

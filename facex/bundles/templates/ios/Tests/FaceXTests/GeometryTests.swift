// The arithmetic against the values in vectors.json. Needs no device, and runs wherever Swift does.

import Foundation
import XCTest

@testable import FaceX

final class GeometryTests: XCTestCase {
    private var vectors: Vectors!
    private var description: BundleDescription!

    override func setUpWithError() throws {
        vectors = try Vectors.load()
        description = try FaceBundle.description()
    }

    func testLetterbox() {
        XCTAssertFalse(vectors.letterbox.isEmpty)
        for v in vectors.letterbox {
            let mapping = FaceGeometry.letterbox(
                sourceHeight: v.sourceHeight, sourceWidth: v.sourceWidth, inputHeight: v.inputHeight,
                inputWidth: v.inputWidth
            )
            XCTAssertEqual(mapping.scale, v.scale)
            XCTAssertEqual(mapping.contentHeight, v.contentHeight)
            XCTAssertEqual(mapping.contentWidth, v.contentWidth)
        }
    }

    func testLetterboxOfTheGoldens() {
        let goldens = description.goldens
        for golden in goldens.photographs {
            let mapping = FaceGeometry.letterbox(
                sourceHeight: golden.sourceHeight, sourceWidth: golden.sourceWidth, inputHeight: goldens.height,
                inputWidth: goldens.width
            )
            XCTAssertEqual(mapping.scale, golden.scale, accuracy: 1e-5 * golden.scale)
        }
    }

    func testToSource() {
        let mapping = FaceGeometry.letterbox(sourceHeight: 480, sourceWidth: 640, inputHeight: 320, inputWidth: 320)
        let face = Face(score: 0.9, box: [10, 20, 30, 40], landmarks: [12, 24])
        let expected = Face(score: 0.9, box: [20, 40, 60, 80], landmarks: [24, 48])
        XCTAssertEqual(FaceGeometry.toSource(face, mapping), expected)
    }

    func testOrientations() throws {
        XCTAssertEqual(Set(vectors.turns.map(\.orientation)), Set(Orientation.allCases.map(\.rawValue)))
        for v in vectors.turns {
            let orientation = try XCTUnwrap(Orientation(rawValue: v.orientation))
            let upright = FaceGeometry.rotated(
                height: v.storedHeight, width: v.storedWidth, orientation: orientation
            )
            XCTAssertEqual(upright.height, v.uprightHeight)
            XCTAssertEqual(upright.width, v.uprightWidth)
            let (x, y) = (v.upright[0], v.upright[1])
            let face = Face(score: 1, box: [x - 1, y - 2, x + 1, y + 2], landmarks: v.upright)
            let stored = FaceGeometry.toStored(
                face, height: v.storedHeight, width: v.storedWidth, orientation: orientation
            )
            let reach: (x: Float, y: Float) = orientation.swapsAxes ? (2, 1) : (1, 2)
            let (a, b) = (v.stored[0], v.stored[1])
            XCTAssertEqual(stored.landmarks, v.stored)
            XCTAssertEqual(stored.box, [a - reach.x, b - reach.y, a + reach.x, b + reach.y])
        }
    }

    func testPixelsAreTheReferencesByteForByte() throws {
        XCTAssertEqual(Set(vectors.pictures.map(\.orientation)), Set(Orientation.allCases.map(\.rawValue)))
        for v in vectors.pictures {
            let orientation = try XCTUnwrap(Orientation(rawValue: v.orientation))
            let upright = FaceGeometry.rotated(height: v.height, width: v.width, orientation: orientation)
            let mapping = FaceGeometry.letterbox(
                sourceHeight: upright.height, sourceWidth: upright.width, inputHeight: v.inputHeight,
                inputWidth: v.inputWidth
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
                    FacePixels.letterbox(
                        bytes, height: v.height, width: v.width, bytesPerRow: sourceRow, orientation: orientation,
                        mapping: mapping, paddingRGB: v.paddingRgb, into: target, inputHeight: v.inputHeight,
                        inputWidth: v.inputWidth, destinationBytesPerRow: inputRow
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
        let priors = FaceGeometry.priors(description.contract, height: goldens.height, width: goldens.width)
        XCTAssertEqual(priors.count, 4 * vectors.priors.count)
        for (index, values) in zip(vectors.priors.indices, vectors.priors.values) {
            XCTAssertEqual(Array(priors[4 * index..<4 * index + 4]), values)
        }
    }

    func testDecodeRaw() throws {
        let v = vectors.raw
        let decoded = try FaceGeometry.decodeRaw(
            loc: v.loc, conf: v.conf, landm: v.landm, priors: v.priors, variances: v.variances
        )
        assertEqual(decoded.boxes, v.boxes, accuracy: 1e-3)
        assertEqual(decoded.scores, v.scores, accuracy: 0)
        assertEqual(decoded.landmarks, v.landmarks, accuracy: 1e-3)
        XCTAssertThrowsError(
            try FaceGeometry.decodeRaw(
                loc: Array(v.loc.dropLast()), conf: v.conf, landm: v.landm, priors: v.priors, variances: v.variances
            )
        )
    }

    func testNonMaximumSuppression() {
        XCTAssertFalse(vectors.suppression.isEmpty)
        for v in vectors.suppression {
            let kept = FaceGeometry.nonMaximumSuppression(
                boxes: v.boxes, scores: v.scores, iouThreshold: description.nmsIoU,
                saturatedScore: description.saturatedScore
            )
            XCTAssertEqual(kept, v.kept)
        }
    }

    func testOverlapOfBoxesThatAreNone() {
        XCTAssertEqual(FaceGeometry.iou([0, 0, 2, 2], [1, 0, 3, 2]), 1 / 3, accuracy: 1e-12)
        for box: [Float] in [[0, 0, 0, 2], [2, 2, 0, 0], [0, 0, .infinity, 2], [.nan, 0, 2, 2]] {
            XCTAssertEqual(FaceGeometry.iou(box, [0, 0, 2, 2]), 0)
            XCTAssertEqual(FaceGeometry.iou(box, box), 0)
        }
    }

    func testDetections() throws {
        let v = vectors.detections
        let outputs = DecodedOutputs(boxes: v.boxes, scores: v.scores, landmarks: v.landmarks)
        let faces = try FaceGeometry.detections(
            outputs, scoreThreshold: description.scoreThreshold, iouThreshold: description.nmsIoU,
            saturatedScore: description.saturatedScore
        )
        XCTAssertEqual(faces, v.faces)
    }

    func testReadDetections() throws {
        let v = vectors.detections
        let padded = DecodedOutputs(
            boxes: v.faces.flatMap(\.box) + [Float](repeating: 0, count: 8),
            scores: v.faces.map(\.score) + [0, 0],
            landmarks: v.faces.flatMap(\.landmarks) + [Float](repeating: 0, count: 2 * v.faces[0].landmarks.count)
        )
        func read(_ count: Int) throws -> [Face] {
            try FaceGeometry.readDetections(padded, count: count, scoreThreshold: description.scoreThreshold)
        }
        XCTAssertEqual(try read(v.faces.count), v.faces)
        XCTAssertEqual(try read(1), Array(v.faces.prefix(1)))
        XCTAssertEqual(try read(0), [])
        XCTAssertThrowsError(try read(padded.scores.count + 1))
        XCTAssertThrowsError(try read(-1))
    }

    func testCompareGolden() {
        XCTAssertFalse(vectors.comparisons.isEmpty)
        for v in vectors.comparisons {
            let comparison = FaceGeometry.compareGolden(
                expected: v.expected, found: v.found, tolerances: v.tolerances,
                scoreThreshold: description.scoreThreshold
            )
            XCTAssertEqual(comparison.pairs, v.pairs, v.name)
            XCTAssertEqual(comparison.lost, v.lost, v.name)
            XCTAssertEqual(comparison.extra, v.extra, v.name)
            XCTAssertEqual(comparison.score, v.score, accuracy: 1e-5, v.name)
            XCTAssertEqual(comparison.box, v.box, accuracy: 1e-5, v.name)
            XCTAssertEqual(comparison.landmark, v.landmark, accuracy: 1e-5, v.name)
            XCTAssertEqual(comparison.passed, v.passed, v.name)
        }
    }

    func testWhatIsNotANumberFails() {
        let face = Face(score: 0.9, box: [0, 0, 10, 10], landmarks: [1, 2])
        let tolerances = Tolerances(score: 0.1, box: 0.1, landmark: 0.1)
        func compare(_ found: Face) -> GoldenComparison {
            FaceGeometry.compareGolden(expected: [face], found: [found], tolerances: tolerances, scoreThreshold: 0.5)
        }
        XCTAssertTrue(compare(face).passed)
        var broken = face
        broken.landmarks[1] = .nan
        XCTAssertEqual(compare(broken).landmark, .infinity)
        XCTAssertFalse(compare(broken).passed)
        broken = face
        broken.score = .nan
        XCTAssertEqual(compare(broken).score, .infinity)
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

// vectors.json: values that facex computed when it wrote the package, by other code than this package's.

import Foundation
import XCTest

@testable import FaceX

struct Vectors: Decodable {
    struct Letterbox: Decodable {
        let sourceHeight, sourceWidth, inputHeight, inputWidth: Int
        let scale: Double
        let contentHeight, contentWidth: Int
    }

    /// A point of a photograph as it is stored, and of the same photograph upright.
    struct Turn: Decodable {
        let orientation: Int
        let storedHeight, storedWidth, uprightHeight, uprightWidth: Int
        let stored, upright: [Float]
    }

    /// A stored photograph, and the input that it becomes; RGB.
    struct Picture: Decodable {
        let orientation: Int
        let height, width, inputHeight, inputWidth: Int
        let paddingRgb: [Int]
        let source, input: Data
    }

    struct Priors: Decodable {
        let count: Int
        let indices: [Int]
        let values: [[Float]]
    }

    struct Raw: Decodable {
        let loc, conf, landm, priors: [Float]
        let variances: [Double]
        let boxes, scores, landmarks: [Float]
    }

    struct Suppression: Decodable {
        let boxes: [[Float]]
        let scores: [Float]
        let kept: [Int]
    }

    struct Detections: Decodable {
        let boxes, scores, landmarks: [Float]
        let faces: [Face]
    }

    struct Comparison: Decodable {
        let name: String
        let expected, found: [Face]
        let tolerances: Tolerances
        let pairs: [[Int]]
        let lost, extra: Int
        let score, box, landmark: Double
        let passed: Bool
    }

    struct Half: Decodable {
        let bits: UInt16
        let value: Float
    }

    /// SHA-256 of the RGB bytes of a golden.
    struct Pixels: Decodable {
        let file, sha256: String
    }

    let letterbox: [Letterbox]
    let turns: [Turn]
    let pictures: [Picture]
    let priors: Priors
    let raw: Raw
    let suppression: [Suppression]
    let detections: Detections
    let comparisons: [Comparison]
    let halves: [Half]
    let pixels: [Pixels]

    /// Where a file of the tests is.
    static func url(_ file: String) throws -> URL {
        try XCTUnwrap(Bundle.module.resourceURL).appendingPathComponent("Goldens").appendingPathComponent(file)
    }

    static func load() throws -> Vectors {
        let decoder = JSONDecoder()
        decoder.keyDecodingStrategy = .convertFromSnakeCase
        return try decoder.decode(Vectors.self, from: Data(contentsOf: url("vectors.json")))
    }
}

/// Whether two lists are equal up to `accuracy`.
func assertEqual(
    _ a: [Float], _ b: [Float], accuracy: Float, _ message: String = "", file: StaticString = #filePath,
    line: UInt = #line
) {
    XCTAssertEqual(a.count, b.count, message, file: file, line: line)
    for (i, (x, y)) in zip(a, b).enumerated() {
        XCTAssertEqual(x, y, accuracy: accuracy, "\(message) at \(i)", file: file, line: line)
    }
}

// vectors.json: values that facex computed when it wrote the package, by other code than this package's.

import Foundation
import XCTest

@testable import FaceX

struct Vectors: Decodable {
    struct Boxed: Decodable {
        let uprightHeight, uprightWidth, inputHeight, inputWidth: Int
        let scale: Double
        let contentHeight, contentWidth: Int
    }

    /// A point of a picture as it lies in memory, and of the same picture upright.
    struct Turn: Decodable {
        let orientation: Int
        let height, width, uprightHeight, uprightWidth: Int
        let buffer, upright: [Float]
    }

    /// A picture as it lies in memory, and the input that it becomes; RGB.
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

    /// Outputs of a model, and the faces in them.
    struct Outputs: Decodable {
        let head: String
        let height, width: Int
        let outputs: [String: [Float]]
        let faces: [Face]
    }

    struct Suppression: Decodable {
        let boxes: [[Float]]
        let scores: [Float]
        let kept: [Int]
    }

    struct Comparison: Decodable {
        let name: String
        let expected, found: [Face]
        let tolerances: Tolerances
        let pairs, lost, extra: Int
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

    let letterbox: [Boxed]
    let turns: [Turn]
    let pictures: [Picture]
    let priors: Priors
    let outputs: [Outputs]
    let suppression: [Suppression]
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

// facex.json: what an app must know of the package. It needs Foundation and no device.

import Foundation

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

/// A model file of the bundle.
public struct Model: Codable, Equatable, Sendable {
    public let file: String
    public let target: String
    public let precision: String
    /// What the outputs are: `decoded`, `raw` or `detections`.
    public let head: String
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
public struct Description: Codable, Equatable, Sendable {
    public let schemaVersion: Int
    /// Version of facex that wrote it.
    public let facex: String
    public let contract: Contract
    /// Colour of the padding, red, green, blue.
    public let paddingRGB: [Int]
    public let scoreThreshold: Float
    public let nmsIou: Double
    public let saturatedScore: Float
    /// The first is the default.
    public let models: [Model]
    public let goldens: GoldenSet

    /// The golden that compute units are chosen by: the first of those with the most faces.
    public var choosing: Golden? { goldens.photographs.first { $0.faces.count == most } }

    private var most: Int { goldens.photographs.map(\.faces.count).max() ?? 0 }

    enum CodingKeys: String, CodingKey {
        case facex, contract, models, goldens
        case schemaVersion = "schema_version"
        case paddingRGB = "padding_rgb"
        case scoreThreshold = "score_threshold"
        case nmsIou = "nms_iou"
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

// The files that the package brings along: facex.json, the models, and one golden to try a device with.

import Foundation

public enum FaceBundle {
    /// The folder, copied into the package's resources as it is.
    static let folder = "Model"

    /// What facex.json says.
    public static func description() throws -> Description {
        let description = try JSONDecoder().decode(Description.self, from: Data(contentsOf: url("facex.json")))
        guard description.schemaVersion == 1 else {
            throw FaceXError("facex.json is of schema version \(description.schemaVersion), this code reads 1")
        }
        guard !description.models.isEmpty else { throw FaceXError("facex.json names no model") }
        return description
    }

    /// Where a file of the package is.
    public static func url(_ file: String) throws -> URL {
        guard let resources = Bundle.module.resourceURL else { throw FaceXError("the package has no resources") }
        let url = resources.appendingPathComponent(folder).appendingPathComponent(file)
        guard FileManager.default.fileExists(atPath: url.path) else {
            throw FaceXError("\(file) is not among the package's resources: add the package as it was written")
        }
        return url
    }
}

// What FaceDetector.swift uses of Apple's frameworks, as their documentation declares it, without any behaviour: enough
// for a Swift compiler on Linux to check types. https://developer.apple.com/documentation/coregraphics

@_exported import Foundation

public typealias CFString = String
public typealias CFURL = URL
public typealias CFDictionary = [String: Any]

public enum CGColorSpaceModel: Int32 { case monochrome, rgb, cmyk }

public final class CGColorSpace {
    public static let sRGB: CFString = ""
    public init?(name: CFString) { nil }
    public var model: CGColorSpaceModel { fatalError() }
    init() {}
}

public func CGColorSpaceCreateDeviceRGB() -> CGColorSpace { fatalError() }

public enum CGImageAlphaInfo: UInt32 { case noneSkipFirst = 6 }

public struct CGBitmapInfo: OptionSet {
    public let rawValue: UInt32
    public init(rawValue: UInt32) { self.rawValue = rawValue }
    public static let byteOrder32Little = CGBitmapInfo(rawValue: 2 << 12)
}

public final class CGImage {
    init() {}
    public var width: Int { fatalError() }
    public var height: Int { fatalError() }
    public var colorSpace: CGColorSpace? { fatalError() }
}

public enum CGInterpolationQuality: Int32 { case `default`, none, low, high, medium }

public final class CGContext {
    public init?(
        data: UnsafeMutableRawPointer?, width: Int, height: Int, bitsPerComponent: Int, bytesPerRow: Int,
        space: CGColorSpace, bitmapInfo: UInt32
    ) { nil }
    public var interpolationQuality: CGInterpolationQuality = .default
    public func draw(_ image: CGImage, in rect: CGRect) {}
}

public typealias CFData = Data

public final class CGDataProvider {
    public init?(data: CFData) { nil }
    public var data: CFData? { nil }
}

public enum CGColorRenderingIntent: Int32 { case defaultIntent }

extension CGImage {
    public convenience init?(
        width: Int, height: Int, bitsPerComponent: Int, bitsPerPixel: Int, bytesPerRow: Int, space: CGColorSpace,
        bitmapInfo: CGBitmapInfo, provider: CGDataProvider, decode: UnsafePointer<CGFloat>?, shouldInterpolate: Bool,
        intent: CGColorRenderingIntent
    ) { nil }
    public var bytesPerRow: Int { fatalError() }
    public var dataProvider: CGDataProvider? { fatalError() }
}

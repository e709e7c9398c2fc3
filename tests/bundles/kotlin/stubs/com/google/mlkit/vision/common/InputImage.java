package com.google.mlkit.vision.common;

import android.media.Image;
public class InputImage {
    public static native InputImage fromMediaImage(Image image, int rotationDegrees);

    public native Image.Plane[] getPlanes();

    public native int getWidth();

    public native int getHeight();

    public native int getRotationDegrees();
}

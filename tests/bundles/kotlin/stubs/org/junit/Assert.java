package org.junit;
public class Assert {
    public static native void assertTrue(String message, boolean condition);

    public static native void assertEquals(Object expected, Object actual);

    public static native void assertEquals(String message, Object expected, Object actual);
}

package org.tensorflow.lite;

import java.nio.ByteBuffer;
import java.util.Map;
public final class Interpreter implements AutoCloseable {
    public static class Options {
        public native Options setNumThreads(int numThreads);

        public native Options setUseXNNPACK(boolean useXNNPACK);

        public native Options addDelegate(Delegate delegate);
    }

    public Interpreter(ByteBuffer byteBuffer, Options options) {}

    public native void runForMultipleInputsOutputs(Object[] inputs, Map<Integer, Object> outputs);

    public native int getOutputTensorCount();

    public native Tensor getInputTensor(int inputIndex);

    public native Tensor getOutputTensor(int outputIndex);

    @Override
    public native void close();
}

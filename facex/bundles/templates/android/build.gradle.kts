// Kotlin is compiled by Android's Gradle plugin from version 9 on, by Kotlin's own before that.
plugins {
    id("com.android.library")
}
if (extensions.findByName("kotlin") == null) apply(plugin = "org.jetbrains.kotlin.android")

android {
    namespace = "facex.detector"
    compileSdk = 35

    defaultConfig {
        minSdk = 21
        consumerProguardFiles("consumer-rules.pro")
        testInstrumentationRunner = "androidx.test.runner.AndroidJUnitRunner"
    }
    compileOptions {
        sourceCompatibility = JavaVersion.VERSION_17
        targetCompatibility = JavaVersion.VERSION_17
    }
    androidResources {
        // a compressed model cannot be mapped; the plugin's default since 4.1, said here for older settings
        noCompress += "tflite"
    }
}

dependencies {
    // The last line of LiteRT whose Interpreter takes the GPU delegate: that of 2.x runs on the CPU alone.
    implementation("com.google.ai.edge.litert:litert:1.4.2")
    implementation("com.google.ai.edge.litert:litert-gpu:1.4.2")
    implementation("com.google.ai.edge.litert:litert-gpu-api:1.4.2")

    androidTestImplementation("androidx.test.ext:junit:1.2.1")
    androidTestImplementation("androidx.test:runner:1.6.2")
}

"""A manifest told to people and to CI: terminal, JSON, JUnit. Pure: no file system and no clock."""

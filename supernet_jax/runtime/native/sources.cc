// Which sources the library was built from, so that Python does not call one of others.

extern "C" const char supernet_sources[] = SUPERNET_SOURCES;

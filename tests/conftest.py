"""What holds for every test: an example of a property may take as long as the machine does."""

from hypothesis import settings

# A property says what is right, not how fast: 200 ms, the default, are missed on a machine that has other work, and the
# test then fails as flaky. The rest is taken from the profile that hypothesis chose, which is another one under CI.
settings.register_profile("swaptier", deadline=None)
settings.load_profile("swaptier")

"""The one exception tree of the project.

SpikeleakError
├── ConfigurationError   what the user wrote cannot be used: exit status 2
├── EnvironmentFaultError  the machine does not give what is needed (broker, port, disk): exit status 1
└── WireError            bytes from the network do not follow SPEC.md: refused, never fatal
"""


class SpikeleakError(Exception):
    """Root of all errors that the project raises on purpose."""

    exit_status = 1


class ConfigurationError(SpikeleakError):
    """A value that the user wrote cannot be used. The message names file, key, value and what is allowed."""

    exit_status = 2


class EnvironmentFaultError(SpikeleakError):
    """The machine does not give what the run needs. The message names what, where and the remedy."""

    exit_status = 1


class WireError(SpikeleakError, ValueError):
    """Bytes that do not follow SPEC.md. The receiver refuses them and goes on."""

"""Every other transport, as far as kombu alone can use it; `adapter` has the `Broker` port."""

"""RabbitMQ, by py-amqp alone; `adapter` has the `Broker` port."""

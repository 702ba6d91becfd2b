"""The table of tasks and the sources of their examples: JSON files, the Hub, MNIST's files, or a generator."""

from typing import TYPE_CHECKING

from apet.exports import on_demand

if TYPE_CHECKING:
    from apet.tasks.examples import Example
    from apet.tasks.generated.sentiment import generate
    from apet.tasks.mnist_files import IMAGE_SIDE
    from apet.tasks.task_table import CORRELATIONS, TASKS, Task, load_task, task_named, tasks_table

__getattr__ = on_demand(__name__, __file__)

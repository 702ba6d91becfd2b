"""Tasks, of the table or from YAML files, and the sources of their examples: files of rows, the Hub, MNIST's files, or a generator."""

from typing import TYPE_CHECKING

from apet.exports import on_demand

if TYPE_CHECKING:
    from apet.tasks.examples import Example
    from apet.tasks.generated.sentiment import generate
    from apet.tasks.mnist_files import IMAGE_SIDE
    from apet.tasks.own_tasks import KEYS
    from apet.tasks.task_data import load_data, load_task, task_named
    from apet.tasks.task_table import CORRELATIONS, TASKS, Task, tasks_table

__getattr__ = on_demand(__name__, __file__)
